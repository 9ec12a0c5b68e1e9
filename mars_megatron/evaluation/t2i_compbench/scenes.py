"""The scorer of this project's own compositional benchmark, in the form of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mars_megatron.evaluation.compositional.benchmark import check_canvases, read_canvases, read_scene_prompts
from mars_megatron.evaluation.compositional.scorer import Scorer

PREFIX = "compositional:"
_CANVASES = 1000  # real ones that the scorer learns digits from


def check_scenes(folder: str, prompts: Sequence[str]) -> None:
    """Whether `SceneScorer` can score these prompts.

    Raises:
        ValueError: The folder is no benchmark, or a prompt is none of it.
    """
    known = {prompt.text for prompt in read_scene_prompts(folder)}
    check_canvases(folder, "train")
    for prompt in prompts:
        if prompt not in known:
            raise ValueError(
                f"prompt {prompt!r} is none of those in {folder}; the scorer {PREFIX}{folder} knows no other"
            )


class SceneScorer:
    """1 where everything about a canvas is right (the benchmark's `joint`), else 0.

    Args:
        folder: That tools/build_compositional.py has written; its prompts are the ones that can be scored.
    """

    name = "compositional"

    def __init__(self, folder: str) -> None:
        self._scenes = {prompt.text: prompt.scene for prompt in read_scene_prompts(folder)}
        self._scorer = Scorer(*read_canvases(folder, "train", _CANVASES))

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Nothing; the suite `compositional` says how far the scorer is right on real canvases."""
        return {}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """uint8 [N, side, side, 3] and the prompt of each -> N scores."""
        return [float(one.joint) for one in self._scorer.judge(images, [self._scenes[prompt] for prompt in prompts])]
