"""What suites work with: a loaded model, and images drawn once and kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron.generation import Sampler
from mars_megatron.huggingface.sampling_mars import image_numbers
from mars_megatron.platform.parallel import only_on_rank_0

# Of generation: what does not decide which images are drawn.
_UNIMPORTANT = ("batch_size", "max_caption_tokens", "text_temperature")


class RunContext:
    """The `Context` of a suite; every rank makes the same.

    Args:
        sampler: The model.
        drawn: Where drawn codes are kept, for all suites of one model.
        model: Fingerprint of the model and of the text tokenizer.
        say: Prints a line.
        progress: Whether to show progress bars.
    """

    def __init__(
        self,
        sampler: Sampler,
        drawn: Path,
        model: str,
        say: Callable[[str], None],
        progress: bool = True,
    ) -> None:
        self.sampler, self.progress = sampler, progress
        self._drawn, self._model, self._say = drawn, model, say

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if torch.distributed.get_rank() == 0:
            self._say(text)

    def draw(self, texts: Sequence[str], per_prompt: int = 1, variant: str = "") -> torch.Tensor:
        """See `Context`."""
        wanted = [text for text in texts for _ in range(per_prompt)]
        numbers = image_numbers(wanted)
        chunks = _Chunks(self._drawn / self._key(wanted, variant))
        parts = chunks.read()
        done = sum(len(part) for part in parts)
        if 0 < done < len(wanted):
            self.say(f"{done} of {len(wanted)} images are drawn already")
        config, groups = self.sampler.loaded.config, self.sampler.loaded.groups
        size = config.generation.batch_size * groups.dp.size()
        hidden = not self.progress or torch.distributed.get_rank() != 0
        with tqdm(total=len(wanted), initial=done, desc=variant or "draw", unit="image", disable=hidden) as bar:
            for start in range(done, len(wanted), size):
                part = slice(start, start + size)
                codes = self.sampler.sample_each(wanted[part], numbers[part])
                chunks.write(start, codes)
                parts.append(codes)
                bar.update(len(codes))
        return self.sampler.decode(torch.cat(parts))

    def _key(self, wanted: Sequence[str], variant: str) -> str:
        """What decides the codes, as a name."""
        config = self.sampler.loaded.config
        generation = {name: value for name, value in asdict(config.generation).items() if name not in _UNIMPORTANT}
        return digest([self._model, generation, list(wanted), variant])


class _Chunks:
    """Drawn codes as files, each named by the number of its first image and written by rank 0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> list[torch.Tensor]:
        """Those that are there without a gap, in order; on every rank what rank 0 sees."""

        def found() -> list[torch.Tensor]:
            chunks: list[torch.Tensor] = []
            start = 0
            while (path := self._path(start)).is_file():
                chunks.append(torch.from_numpy(np.load(path, allow_pickle=False)))
                start += len(chunks[-1])
            return chunks

        return only_on_rank_0(found)

    def write(self, start: int, codes: torch.Tensor) -> None:
        """Keep codes int64 [images, grid]; a file has its name only when it is complete."""
        if torch.distributed.get_rank() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._path(start).with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, codes.numpy())
        os.replace(temporary, self._path(start))

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npy"


def digest(value: Any) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]
