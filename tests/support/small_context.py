"""What a suite works with, for tests: draws with a tiny random model, or hands out given images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron.sampling import Sampler


class SmallContext:
    """A `Context` that keeps what it was asked for.

    Args:
        sampler: Draws where no images are given.
        images: uint8 [N, height, width, 3] that every call of `draw` gives.
    """

    def __init__(self, sampler: Sampler, images: torch.Tensor | None = None) -> None:
        self.sampler = sampler
        self.images = images
        self.progress = False
        self.said: list[str] = []
        self.drawn: list[str] = []

    def draw(self, texts: Sequence[str], per_prompt: int = 1, variant: str = "") -> torch.Tensor:
        self.drawn = list(texts)
        if self.images is not None:
            assert len(self.images) == len(texts) * per_prompt
            return self.images
        return self.sampler.decode(self.sampler.sample(texts, per_prompt))

    def say(self, text: str) -> None:
        self.said.append(text)
