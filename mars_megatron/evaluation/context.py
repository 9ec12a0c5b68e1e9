"""What suites work with: a loaded model, and results that are kept while they work."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from mars_megatron.evaluation.kept import Chunks, kept_codes, kept_values
from mars_megatron.evaluation.ranks import over_replicas
from mars_megatron.sampling import Sampler
from mars_megatron.sampling.logits_to_ids import image_numbers

# Of generation: what does not decide which images are drawn.
_UNIMPORTANT = ("batch_size", "max_caption_tokens", "text_temperature")

Item = TypeVar("Item")


class RunContext:
    """The `Context` of a suite; every rank makes the same.

    Args:
        sampler: The model.
        kept: Where results are kept, for all suites of one model.
        model: Fingerprint of the model and of the text tokenizer.
        job: Fingerprint of all that decides the suite's result.
        say: Prints a line.
        progress: Whether to show progress bars.
    """

    def __init__(
        self,
        sampler: Sampler,
        kept: Path,
        model: str,
        job: str,
        say: Callable[[str], None],
        progress: bool = True,
    ) -> None:
        self.sampler, self.progress = sampler, progress
        self._kept, self._model, self._job, self._say = kept, model, job, say

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if torch.distributed.get_rank() == 0:
            self._say(text)

    def draw(self, texts: Sequence[str], per_prompt: int = 1, variant: str = "") -> torch.Tensor:
        """See `Context`."""
        wanted = [text for text in texts for _ in range(per_prompt)]
        numbers = image_numbers(wanted)
        config, groups = self.sampler.loaded.config, self.sampler.loaded.groups

        def draw(part: slice) -> list[torch.Tensor]:
            return list(self.sampler.sample_each(wanted[part], numbers[part]))

        codes = self._go_on(
            kept_codes(self._kept / self._key(wanted, variant)),
            variant or "images",
            len(wanted),
            config.generation.batch_size * groups.dp.size(),
            draw,
        )
        return self.sampler.decode(torch.stack(codes))

    def compute(
        self, what: str, count: int, work: Callable[[list[int]], Sequence[Any]], at_once: int | None = None
    ) -> list[Any]:
        """See `Context`."""
        config, groups = self.sampler.loaded.config, self.sampler.loaded.groups

        def shared(part: slice) -> list[Any]:
            here = range(count)[part]
            return over_replicas(len(here), groups.dp, lambda numbers: work([here[number] for number in numbers]))

        size = (at_once or config.generation.batch_size) * groups.dp.size()
        return self._go_on(kept_values(self._kept / self._job / digest(what)), what, count, size, shared)

    def forget(self) -> None:
        """Remove what `compute` has kept: the result is there. Called on one rank."""
        if (self._kept / self._job).is_dir():
            shutil.rmtree(self._kept / self._job)

    def _go_on(
        self, kept: Chunks[Item], what: str, count: int, size: int, work: Callable[[slice], Sequence[Item]]
    ) -> list[Item]:
        """All results: those that are kept, and behind them those that `work` gives, `size` at a time."""
        results = kept.read()
        if 0 < len(results) < count:
            self.say(f"{len(results)} of {count} {what} are there already")
        hidden = not self.progress or torch.distributed.get_rank() != 0
        with tqdm(total=count, initial=len(results), desc=what, disable=hidden) as bar:
            for start in range(len(results), count, size):
                part = work(slice(start, start + size))
                kept.write(start, part)
                results += part
                bar.update(len(part))
        return results

    def _key(self, wanted: Sequence[str], variant: str) -> str:
        """What decides the codes, as a name."""
        config = self.sampler.loaded.config
        generation = {name: value for name, value in asdict(config.generation).items() if name not in _UNIMPORTANT}
        return digest([self._model, generation, list(wanted), variant])


def digest(value: Any) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]
