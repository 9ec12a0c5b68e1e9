"""The endless sequence of packs: rounds that are planned when they are needed, and kept in files that all ranks,
workers and later runs share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock

from mars_megatron.data.planning import SAMPLE, CorpusArrays, RoundSettings, Stream, plan_round
from mars_megatron.data.store import Store

PLAN_VERSION = 1  # raised with every change of which samples a plan has
_KEPT_ROUNDS = 2  # this one and the one before, which other ranks may still read


@dataclass(frozen=True, eq=False)
class Round:
    """The packs of one round.

    Args:
        samples: SAMPLE [n] (data.planning), pack after pack.
        offsets: int64 [packs + 1], where each pack begins in samples.
    """

    samples: np.ndarray
    offsets: np.ndarray

    @property
    def num_packs(self) -> int:
        return len(self.offsets) - 1

    def pack(self, number: int) -> np.ndarray:
        """SAMPLE [k] of one pack."""
        return self.samples[self.offsets[number] : self.offsets[number + 1]]


class Rounds:
    """All rounds of a run, one in memory at a time.

    Args:
        stores: The corpora.
        settings: How samples are drawn and packed.
        streams: What each round takes of which stream; a pure function of the round's number.
        endless: Every round is another one; otherwise round 0 repeats.
        cache: Folder to keep plans in; None keeps them in memory alone.

    Attributes:
        fingerprint: Changes with everything that decides which samples there are and in which order.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        settings: RoundSettings,
        streams: Callable[[int], list[Stream]],
        *,
        endless: bool,
        cache: Path | None = None,
    ) -> None:
        self.stores, self.settings, self.streams, self.endless = stores, settings, streams, endless
        self.fingerprint = _fingerprint(stores, settings, streams(0), endless)
        self._cache = None if cache is None else _Cache(cache / self.fingerprint)
        self._current: tuple[int, Round] | None = None
        self._starts = [0]  # first pack of every round met so far, and the one after the last

    def round(self, number: int) -> Round:
        """The packs of one round."""
        if self._current is None or self._current[0] != number:
            self._current = None  # two at once would double the memory
            self._current = number, self._open(number)
        return self._current[1]

    def locate(self, index: int) -> tuple[int, int]:
        """(round, pack within it) of pack number `index` of the whole sequence."""
        if not self.endless:
            return 0, index % self.round(0).num_packs
        while self._starts[-1] <= index:
            self._starts.append(self._starts[-1] + self._num_packs(len(self._starts) - 1))
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def samples(self, index: int) -> np.ndarray:
        """SAMPLE [k] of pack number `index` of the whole sequence."""
        number, pack = self.locate(index)
        return self.round(number).pack(pack)

    def _num_packs(self, number: int) -> int:
        if self._cache is not None and (found := self._cache.num_packs(number)) is not None:
            return found
        return self.round(number).num_packs

    def _open(self, number: int) -> Round:
        if self._cache is None:
            return self._plan(number)
        return self._cache.round(number, self._plan)

    def _plan(self, number: int) -> Round:
        corpora: list[CorpusArrays] = [store.arrays for store in self.stores]
        samples, offsets, _ = plan_round(corpora, self.streams(number), self.settings)
        if len(offsets) < 2:
            raise ValueError(
                "data.micro_batch_tokens leaves room for no sample, all are longer; raise it (indices: "
                f"{', '.join(store.prefix for store in self.stores)})"
            )
        return Round(samples, offsets)


class _Cache:
    """Planned rounds as files. A round exists when its .json, which is written last, does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def num_packs(self, number: int) -> int | None:
        """Packs of a round that was planned once; its plan may be gone."""
        path = self._path(number, "json")
        return json.loads(path.read_text())["packs"] if path.is_file() else None

    def round(self, number: int, plan: Callable[[int], Round]) -> Round:
        """Open a round, planning it first if nobody has."""
        found = self._load(number)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        # Whoever comes first plans; the others wait.
        with FileLock(str(self.folder / "lock")):
            found = self._load(number)
            if found is None:
                planned = plan(number)
                self._save(number, planned)
                found = self._load(number) or planned
        return found

    def _load(self, number: int) -> Round | None:
        if not self._path(number, "json").is_file():
            return None
        try:
            samples = np.load(self._path(number, "samples.npy"), mmap_mode="r", allow_pickle=False)
            offsets = np.load(self._path(number, "offsets.npy"), allow_pickle=False)
        except FileNotFoundError:  # removed by a run that is further on
            return None
        return Round(samples.view(SAMPLE), offsets)

    def _save(self, number: int, planned: Round) -> None:
        free = shutil.disk_usage(self.folder).free
        if planned.samples.nbytes + planned.offsets.nbytes > free:
            raise OSError(f"no room for the order of samples in {self.folder}; set data.cache_dir to another folder")
        counts = {"packs": planned.num_packs, "samples": len(planned.samples)}
        self._write(number, "samples.npy", partial(np.save, arr=planned.samples.view(np.uint64), allow_pickle=False))
        self._write(number, "offsets.npy", partial(np.save, arr=planned.offsets, allow_pickle=False))
        self._write(number, "json", lambda file: file.write(json.dumps(counts).encode()))
        for path in self.folder.glob("*.npy"):  # the counts stay: they tell where later rounds begin
            if int(path.name.partition(".")[0]) <= number - _KEPT_ROUNDS:
                path.unlink(missing_ok=True)

    def _write(self, number: int, ending: str, write: Callable[[BinaryIO], object]) -> None:
        path = self._path(number, ending)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                write(file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"


def _fingerprint(stores: Sequence[Store], settings: RoundSettings, streams: Sequence[Stream], endless: bool) -> str:
    contents = {
        "version": PLAN_VERSION,
        "indices": [sorted(store.manifest.sha256.items()) for store in stores],
        "sizes": [[store.num_documents, len(store.lengths)] for store in stores],
        "settings": asdict(settings),
        "streams": [[s.corpus, s.kind, s.first_slot, s.num_documents, s.count, s.tasks, s.limits] for s in streams],
        "endless": endless,
    }
    return hashlib.sha256(json.dumps(contents, default=int).encode()).hexdigest()[:32]
