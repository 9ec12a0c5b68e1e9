"""The tools of a suite: a loaded model, stored partial results, and the ranks that share the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from mars_megatron.files.hashes import value_fingerprint
from mars_megatron.files.plain_text import read_json
from mars_megatron.files.writing import complete
from mars_megatron.platform.parallel import only_on_rank_0
from mars_megatron.sampling import Sampler
from mars_megatron.sampling.logits_to_ids import image_numbers

# Of generation: what does not decide which images are drawn.
_UNIMPORTANT = ("batch_size", "max_caption_tokens", "text_temperature")

Item = TypeVar("Item")


class Context:
    """The tools of a suite. Every rank makes the same calls, and gets the same results.

    Args:
        sampler: The model.
        kept: Folder of partial results, for all suites of one model.
        model: Fingerprint of the model and of the text tokenizer.
        job: Fingerprint of everything that decides the result of the suite.
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
        """uint8 [len(texts) * per_prompt, height, width, 3] on the CPU, all images of the first text first.

        The replicas of the model share the work. Images are stored: an interrupted run resumes after the last stored
        image, and suites that draw the same images share them. A text that occurs twice has different images.

        Args:
            texts: What to draw.
            per_prompt: Images of each text.
            variant: What a suite that changes the model in between calls the change; images of one are never taken
                for those of another.
        """
        wanted = [text for text in texts for _ in range(per_prompt)]
        numbers = image_numbers(wanted)
        config, groups = self.sampler.loaded.config, self.sampler.loaded.groups

        def draw(part: slice) -> list[list[int]]:
            codes: list[list[int]] = self.sampler.sample_each(wanted[part], numbers[part]).tolist()
            return codes

        size = config.generation.batch_size * groups.dp.size()
        codes = self._go_on(self._kept / self._key(wanted, variant), variant or "images", len(wanted), size, draw)
        return self.sampler.decode(torch.tensor(codes))

    def compute(
        self, what: str, count: int, work: Callable[[list[int]], Sequence[Any]], at_once: int | None = None
    ) -> list[Any]:
        """Results of `count` things by the model, in order.

        The replicas of the model share the work. Results are stored: an interrupted run resumes after the last stored
        result.

        Args:
            what: Their name ("captions"); different for each call in a suite.
            count: How many.
            work: Gives the results of the things with these numbers: plain values, or lists and dicts of them with
                strings as keys. The ranks of one replica call it together.
            at_once: Largest number of results of one call of `work`; None takes the batch size of generation.
        """
        config, groups = self.sampler.loaded.config, self.sampler.loaded.groups

        def shared(part: slice) -> list[Any]:
            here = range(count)[part]
            return over_ranks(len(here), lambda numbers: work([here[number] for number in numbers]), groups.dp)

        size = (at_once or config.generation.batch_size) * groups.dp.size()
        return self._go_on(self._kept / self._job / value_fingerprint(what), what, count, size, shared)

    def forget(self) -> None:
        """Remove the stored results of `compute`, after the suite has finished. Called on one rank."""
        if (self._kept / self._job).is_dir():
            shutil.rmtree(self._kept / self._job)

    def _go_on(
        self, folder: Path, what: str, count: int, size: int, work: Callable[[slice], Sequence[Any]]
    ) -> list[Any]:
        """All results: those that are kept in a folder, and behind them those that `work` gives, `size` at a time.

        A file of results is named by the number of the first one; JSON gives every float back to the last bit.
        """

        def path(number: int) -> Path:
            return folder / f"{number:08d}.json"

        def kept() -> list[Any]:
            found: list[Any] = []
            while path(len(found)).is_file():
                found += read_json(path(len(found)))
            return found

        results = only_on_rank_0(kept)
        if 0 < len(results) < count:
            self.say(f"{len(results)} of {count} {what} are there already")
        hidden = not self.progress or torch.distributed.get_rank() != 0
        with tqdm(total=count, initial=len(results), desc=what, disable=hidden) as bar:
            for start in range(len(results), count, size):
                part = work(slice(start, start + size))
                if torch.distributed.get_rank() == 0:
                    with complete(path(start), durable=False) as temporary:
                        temporary.write_text(json.dumps(list(part), ensure_ascii=False), encoding="utf-8")
                results += part
                bar.update(len(part))
        return results

    def _key(self, wanted: Sequence[str], variant: str) -> str:
        """What decides the codes, as a name."""
        config = self.sampler.loaded.config
        generation = {name: value for name, value in asdict(config.generation).items() if name not in _UNIMPORTANT}
        return value_fingerprint([self._model, generation, list(wanted), variant])


def over_ranks(
    count: int, work: Callable[[list[int]], Sequence[Item]], group: torch.distributed.ProcessGroup | None = None
) -> list[Item]:
    """What `work` gives for `count` things, shared among ranks, each of which must call it, and gets all.

    Args:
        count: How many things there are.
        work: Gives the results of the things with these numbers.
        group: The ranks; None takes all of the job. With the data-parallel group the ranks of one replica of the model
            call `work` together.
    """
    mine = my_share(count, group)
    part = list(work(mine)) if mine else []
    assert len(part) == len(mine), (len(part), len(mine))
    ranks = torch.distributed.get_world_size(group)
    parts: list[list[Item]] = [part] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(parts, part, group=group)
    return [parts[number % ranks][number // ranks] for number in range(count)]


def my_share(count: int, group: torch.distributed.ProcessGroup | None = None) -> list[int]:
    """Numbers below `count` that this rank works on; those of all ranks of the group together are all of them."""
    return list(range(torch.distributed.get_rank(group), count, torch.distributed.get_world_size(group)))
