"""What suites work with: a loaded model, results that are kept while they work, and the ranks that share the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron.files.hashes import value_fingerprint
from mars_megatron.files.writing import complete
from mars_megatron.platform.parallel import only_on_rank_0
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
        return self._go_on(kept_values(self._kept / self._job / value_fingerprint(what)), what, count, size, shared)

    def forget(self) -> None:
        """Remove what `compute` has kept: the result is there. Called on one rank."""
        if (self._kept / self._job).is_dir():
            shutil.rmtree(self._kept / self._job)

    def _go_on(
        self, kept: _Chunks[Item], what: str, count: int, size: int, work: Callable[[slice], Sequence[Item]]
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
        return value_fingerprint([self._model, generation, list(wanted), variant])


class _Chunks(Generic[Item]):
    """Results as files, each named by the number of its first one and written by rank 0.

    Args:
        folder: Where they are.
        suffix: Of the files.
        load: Reads a file.
        save: Writes one.
    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        load: Callable[[Path], list[Item]],
        save: Callable[[Path, Sequence[Item]], None],
    ) -> None:
        self._folder, self._suffix, self._load, self._save = folder, suffix, load, save

    def read(self) -> list[Item]:
        """Those that are there without a gap, in order; on every rank what rank 0 sees."""

        def found() -> list[Item]:
            results: list[Item] = []
            while (path := self._path(len(results))).is_file():
                results += self._load(path)
            return results

        return only_on_rank_0(found)

    def write(self, start: int, results: Sequence[Item]) -> None:
        """Keep the results from number `start` on."""
        if torch.distributed.get_rank() == 0:
            with complete(self._path(start), durable=False) as temporary:
                self._save(temporary, results)

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:08d}{self._suffix}"


def kept_codes(folder: Path) -> _Chunks[torch.Tensor]:
    """Of int64 tensors of one shape, as NumPy files."""

    def load(path: Path) -> list[torch.Tensor]:
        # Each on its own: a row that is a view is sent to other ranks with all of its file.
        return [row.clone() for row in torch.from_numpy(np.load(path, allow_pickle=False))]

    def save(path: Path, codes: Sequence[torch.Tensor]) -> None:
        with path.open("wb") as file:  # np.save would give the name another ending
            np.save(file, torch.stack(list(codes)).numpy())

    return _Chunks(folder, ".npy", load, save)


def kept_values(folder: Path) -> _Chunks[Any]:
    """Of plain values, as JSON files, which give every float back to the last bit."""

    def load(path: Path) -> list[Any]:
        values: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        return values

    def save(path: Path, values: Sequence[Any]) -> None:
        path.write_text(json.dumps(list(values), ensure_ascii=False), encoding="utf-8")

    return _Chunks(folder, ".json", load, save)


def my_share(count: int) -> range:
    """Numbers below `count` that this rank works on; those of all ranks together are all of them."""
    return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())


def score_shared(count: int, score: Callable[[Sequence[int]], Sequence[float]]) -> list[float]:
    """Scores of `count` things, each computed on one rank; every rank must call it, and gets all.

    Args:
        count: How many there are.
        score: Gives the scores of the things with these numbers.
    """
    mine = my_share(count)
    part = [float(value) for value in score(mine)] if len(mine) else []
    assert len(part) == len(mine), (len(part), len(mine))
    ranks = torch.distributed.get_world_size()
    parts: list[list[float]] = [part] * ranks
    torch.distributed.all_gather_object(parts, part)
    whole = [0.0] * count
    for rank, values in enumerate(parts):
        whole[rank::ranks] = values
    return whole


def over_replicas(
    count: int, group: torch.distributed.ProcessGroup, work: Callable[[list[int]], Sequence[Item]]
) -> list[Item]:
    """What `work` gives for `count` things, shared among the replicas of the model; every rank must call it, and gets
    all.

    Args:
        count: How many things there are.
        group: The data-parallel group.
        work: Gives the results of the things with these numbers; the ranks of one replica call it together.
    """
    replicas, mine = group.size(), list(range(group.rank(), count, group.size()))
    part = list(work(mine)) if mine else []
    assert len(part) == len(mine), (len(part), len(mine))
    parts: list[list[Item]] = [part] * replicas
    if replicas > 1:
        torch.distributed.all_gather_object(parts, part, group=group)
    return [parts[number % replicas][number // replicas] for number in range(count)]
