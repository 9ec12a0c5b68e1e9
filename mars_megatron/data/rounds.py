"""The endless sequence of packs: rounds that are planned when they are needed, and kept in files that all ranks,
workers and later runs share."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from mars_megatron.data.planning import SAMPLE, CorpusArrays, RoundSettings, Stream, plan_round
from mars_megatron.data.store import Store
from mars_megatron.files.writing import TEMPORARY, complete

PLAN_VERSION = 1  # raised with every change of which samples a plan has
_OLD_SECONDS = 86400.0  # plans of rounds that are behind are kept so long: a slower run may still read them
_LOCK_SECONDS = 600.0


@dataclass(frozen=True, eq=False)
class Round:
    """The packs of one round.

    Args:
        samples: SAMPLE [n] (data.planning), pack after pack.
        offsets: int64 [packs + 1], where each pack begins in samples.
        num_too_long: Samples left out because they are longer than a pack.
    """

    samples: np.ndarray
    offsets: np.ndarray
    num_too_long: int = 0

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
        streams: What each round takes of which stream; a pure function of the round's number, and
        decided_by: of this (JSON).
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
        decided_by: object,
        *,
        endless: bool,
        cache: Path | None = None,
    ) -> None:
        self.stores, self.settings, self.streams, self.endless = stores, settings, streams, endless
        self.fingerprint = _fingerprint(stores, settings, decided_by, endless)
        self._cache = None if cache is None else _Cache(cache / self.fingerprint)
        self._current: tuple[int, Round] | None = None
        self._starts = [0]  # first pack of every round met so far, and the one after the last

    def round(self, number: int) -> Round:
        """The packs of one round."""
        if self._current is None or self._current[0] != number:
            self._current = None  # two at once would double the memory
            self._current = number, self._open(number)
        return self._current[1]

    def latest(self) -> Round:
        """The round that was opened last, so that none is planned for it; the first one where none was."""
        return self.round(0) if self._current is None else self._current[1]

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
        samples, offsets, num_too_long = plan_round(corpora, self.streams(number), self.settings)
        if len(offsets) < 2:
            raise ValueError(
                "data.micro_batch_tokens is too small for every sample; raise it (indices: "
                f"{', '.join(store.prefix for store in self.stores)})"
            )
        return Round(samples, offsets, num_too_long)


class _Cache:
    """Planned rounds as files. A round exists when its .json, which is written last, does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def num_packs(self, number: int) -> int | None:
        """Packs of a round that was planned once; its plan may be gone."""
        counts = self._counts(number)
        return None if counts is None else counts["packs"]

    def round(self, number: int, plan: Callable[[int], Round]) -> Round:
        """Open a round, planning it first if nobody has."""
        found = self._load(number)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        # Whoever comes first plans; the others wait, but not for a lock that nobody holds any more.
        lock = FileLock(str(self.folder / "lock"), timeout=_LOCK_SECONDS)
        try:
            with lock:
                found = self._load(number)
                if found is None:
                    found = plan(number)
                    self._save(number, found)
        except Timeout:
            warnings.warn(f"{lock.lock_file} has been held for {_LOCK_SECONDS} s; planning without it", stacklevel=2)
            found = plan(number)
        return found

    def _counts(self, number: int) -> dict[str, int] | None:
        try:
            counts = json.loads(self._path(number, "json").read_text())
            return {name: int(counts[name]) for name in ("packs", "samples", "too_long")}
        except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is planned again
            return None

    def _load(self, number: int) -> Round | None:
        counts = self._counts(number)
        if counts is None:
            return None
        try:
            samples = np.load(self._path(number, "samples.npy"), mmap_mode="r", allow_pickle=False).view(SAMPLE)
            offsets = np.load(self._path(number, "offsets.npy"), allow_pickle=False)
        except (OSError, ValueError, EOFError, TypeError):
            return None
        fits = (len(samples), len(offsets), offsets[-1:].tolist()) == (
            counts["samples"],
            counts["packs"] + 1,
            [counts["samples"]],
        )
        return Round(samples, offsets, counts["too_long"]) if fits else None

    def _save(self, number: int, planned: Round) -> None:
        free = shutil.disk_usage(self.folder).free
        if planned.samples.nbytes + planned.offsets.nbytes > free:
            raise OSError(f"no space for the order of samples in {self.folder}; set data.cache_dir to another folder")
        counts = {"packs": planned.num_packs, "samples": len(planned.samples), "too_long": planned.num_too_long}
        self._write(number, "samples.npy", partial(np.save, arr=planned.samples.view(np.uint64), allow_pickle=False))
        self._write(number, "offsets.npy", partial(np.save, arr=planned.offsets, allow_pickle=False))
        self._write(number, "json", lambda file: file.write(json.dumps(counts).encode()))
        self._remove_old(number)

    def _remove_old(self, number: int) -> None:
        """Remove plans that are behind, and what killed processes left; not what slower runs may still read."""
        for path in self.folder.iterdir():
            behind = path.suffix == ".npy" and int(path.name.partition(".")[0]) < number - 1
            # The counts stay: they tell where later rounds begin.
            if (behind or path.suffix == TEMPORARY) and time.time() - path.stat().st_mtime > _OLD_SECONDS:
                path.unlink(missing_ok=True)

    def _write(self, number: int, ending: str, write: Callable[[BinaryIO], object]) -> None:
        with complete(self._path(number, ending), unique=True) as temporary, temporary.open("wb") as file:
            write(file)

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"


def _fingerprint(stores: Sequence[Store], settings: RoundSettings, decided_by: object, endless: bool) -> str:
    endings = ("bin", "idx", "weights.npy")  # not the log of what was left out, which names paths
    contents = {
        "version": PLAN_VERSION,
        "indices": [[store.manifest.sha256.get(ending, "") for ending in endings] for store in stores],
        "sizes": [[store.num_documents, len(store.lengths)] for store in stores],
        "settings": asdict(settings),
        "streams": decided_by,
        "endless": endless,
    }
    return hashlib.sha256(json.dumps(contents, default=int).encode()).hexdigest()[:32]
