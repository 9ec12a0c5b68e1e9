"""Writing an index: PREFIX.bin and .idx as megatron-core's IndexedDataset reads them, .weights.npy, and the log of
what was left out. Files have temporary names until they are complete; the manifest is written last.

megatron-core's own IndexedDatasetBuilder takes one document per call and keeps Python lists of all sequences; here
documents come in batches of arrays. A test checks that both write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from mars_megatron.files.hashes import file_sha256
from mars_megatron.files.writing import TEMPORARY, sync_file, write_text
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import KINDS, VISUAL_MODES, document_kinds

TOKEN_DTYPE = np.int32
# megatron-core's: magic, version, its number for int32, sequences, document boundaries
MAGIC, VERSION, INT32_CODE = b"MMIDIDX\x00\x00", 1, 4
HEADER = struct.Struct("<9sQBQQ")
ENDINGS = ("bin", "idx", "weights.npy", "skipped.jsonl")  # the manifest follows when these are in place
# The log of a build in which nothing could be used; PREFIX.skipped.jsonl stays that of the index that is there.
NOTHING_INDEXED = "nothing_indexed.jsonl"
_BLOCK = 1 << 20  # sequences
Buffer: TypeAlias = bytes | bytearray | memoryview


class BeingWrittenError(ValueError):
    """Another process is writing an index."""


class IndexWriter:
    """An index under construction.

    Args:
        prefix: Path of the index without ending; its folder is made. An older index stays until `commit`.

    Raises:
        BeingWrittenError: Another process is writing this index.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        Path(self.prefix).parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.prefix}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise BeingWrittenError(
                f"another process is writing {self.prefix}; wait for it, or give another output"
            ) from None
        self.skipped: dict[str, int] = {}
        self._lengths, self._modes, self._counts, self._weights = _Blocks(), _Blocks(), _Blocks(), _Blocks()
        self._has_weights = False
        self._digest = hashlib.sha256()
        try:
            self._remove_temporaries()  # of a process that was killed
            self._tokens = self._open("bin")
            self._log = self._open("skipped.jsonl")
        except OSError:
            self._release()
            raise

    def add(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        modes: np.ndarray,
        sequences: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        """Append documents.

        Args:
            tokens: int32 [sum of lengths], the sequences of all documents one after the other.
            lengths: int32 [S], tokens of each sequence, each at least 1.
            modes: int8 [S], of index.modes.
            sequences: int64 [D], number of sequences of each document; their sum is S.
            weights: float32 [S], the relative weight of each caption among those of its document; None for equal ones.
        """
        assert tokens.dtype == TOKEN_DTYPE and len(tokens) == int(lengths.sum(dtype=np.int64))
        assert len(lengths) == len(modes) == int(sequences.sum()) and (len(lengths) == 0 or lengths.min() >= 1)
        self._add_arrays(lengths, modes, sequences, weights)
        self._write(np.ascontiguousarray(tokens).data)

    def append(
        self,
        blocks: Iterable[Buffer],
        lengths: np.ndarray,
        modes: np.ndarray,
        boundaries: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        """Append a whole index.

        Args:
            blocks: The bytes of its .bin; together they must be what the lengths describe.
            lengths: int32 [S], tokens of each sequence; copied, so that no file is held open by its mapping.
            modes: int8 [S].
            boundaries: int64 [D + 1], the first sequence of each document, and S.
            weights: float32 [S], as for `add`.
        """
        weights = None if weights is None else np.array(weights)
        self._add_arrays(np.array(lengths), np.array(modes), np.diff(boundaries), weights)
        for block in blocks:
            self._write(block)

    def append_log(self, log: Path, skipped: Mapping[str, int]) -> None:
        """Append the log of another index and its counts by reason."""
        with log.open("rb") as file:
            shutil.copyfileobj(file, self._log, 1 << 20)
        for reason, count in skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def _write(self, data: Buffer) -> None:
        self._digest.update(data)
        self._tokens.write(data)

    def _add_arrays(
        self, lengths: np.ndarray, modes: np.ndarray, sequences: np.ndarray, weights: np.ndarray | None
    ) -> None:
        self._lengths.append(lengths, np.int32)
        self._modes.append(modes, np.int8)
        self._counts.append(sequences, np.int64)
        if weights is not None and not self._has_weights:
            self._has_weights = True
            self._weights.append(np.ones(self._lengths.size - len(lengths)), np.float32)
        if self._has_weights:
            self._weights.append(np.ones(len(lengths)) if weights is None else weights, np.float32)

    def skip(self, where: Mapping[str, Any], reason: str, detail: str) -> None:
        """Count and log a skipped item; `where` identifies it, such as {"file": ..., "line": ...}."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        entry = {**where, "reason": reason, "detail": detail}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", errors="backslashreplace")
        self._log.write(line + b"\n")

    @property
    def num_documents(self) -> int:
        """Documents added so far."""
        return self._counts.size

    def commit(self, manifest: Callable[[Contents], Manifest]) -> Manifest:
        """Put the files in place, the manifest last. All of it is on the disk when this returns.

        Steps that can fail come first, while an older index under this prefix is still complete.

        Args:
            manifest: Makes the manifest from the counts; `skipped`, `sha256` and so on are up to it.
        """
        lengths, modes, counts = self._lengths.join(np.int32), self._modes.join(np.int8), self._counts.join(np.int64)
        boundaries = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=boundaries[1:])
        sha256 = {"bin": self._digest.hexdigest()}
        _close(self._tokens)
        _close(self._log)
        with self._open("idx") as file:
            write_index(file, lengths, modes, boundaries)
        if self._has_weights:
            with self._open("weights.npy") as file:
                np.save(file, self._weights.join(np.float32))
                _close(file)
        for ending in ENDINGS[1:]:
            if self._is_kept(ending):
                sha256[ending] = file_sha256(self._temporary(ending))
        contents = Contents(lengths, modes, boundaries, self._has_weights, dict(self.skipped), sha256)
        made = manifest(contents)
        write_text(self._temporary("json"), made.text())  # on the disk before the older index is touched
        # An older index under this prefix is no longer complete from here on, on the disk too.
        self._final("json").unlink(missing_ok=True)
        self._sync_folder()
        for ending in ENDINGS:
            if self._is_kept(ending):
                os.replace(self._temporary(ending), self._final(ending))
            else:
                self._final(ending).unlink(missing_ok=True)
        self._final(NOTHING_INDEXED).unlink(missing_ok=True)
        self._sync_folder()
        os.replace(self._temporary("json"), self._final("json"))
        self._sync_folder()
        return made

    def keep_log(self) -> Path:
        """Keep the log of what was left out, for an index that comes to nothing; returns where it is."""
        _close(self._log)
        os.replace(self._temporary("skipped.jsonl"), self._final(NOTHING_INDEXED))
        return self._final(NOTHING_INDEXED)

    def discard(self) -> None:
        """Remove every temporary file and let others write. Must be called in the end, also after `commit`."""
        for file in (self._tokens, self._log):
            with contextlib.suppress(OSError):  # on a full disk closing writes what is left, and fails again
                file.close()
        try:
            self._remove_temporaries()
        finally:
            self._release()

    def _remove_temporaries(self) -> None:
        for ending in (*ENDINGS, "json"):
            self._temporary(ending).unlink(missing_ok=True)

    def _release(self) -> None:
        self._final("lock").unlink(missing_ok=True)
        self._lock.release()

    def _is_kept(self, ending: str) -> bool:
        return {"weights.npy": self._has_weights, "skipped.jsonl": bool(self.skipped)}.get(ending, True)

    def _sync_folder(self) -> None:
        """Renames and removals so far are on the disk when this returns."""
        sync_file(Path(self.prefix).parent)

    def _open(self, ending: str) -> BinaryIO:
        return self._temporary(ending).open("wb", buffering=1 << 20)

    def _final(self, ending: str) -> Path:
        return Path(f"{self.prefix}.{ending}")

    def _temporary(self, ending: str) -> Path:
        return Path(f"{self.prefix}.{ending}{TEMPORARY}")


@dataclass(frozen=True)
class Contents:
    """What was written, for the manifest.

    Args:
        lengths: int32 [S].
        modes: int8 [S].
        boundaries: int64 [D + 1], where each document begins among the sequences.
        has_weights: Whether there are caption weights.
        skipped: Number of samples left out, by reason.
        sha256: Of the files, by ending.
    """

    lengths: np.ndarray
    modes: np.ndarray
    boundaries: np.ndarray
    has_weights: bool
    skipped: dict[str, int]
    sha256: dict[str, str]

    def documents(self) -> dict[str, int]:
        """Documents by kind; kinds without any are left out."""
        counts = np.bincount(document_kinds(self.modes, self.boundaries), minlength=len(KINDS)).tolist()
        return {name: count for name, count in zip(KINDS, counts, strict=True) if count}

    def tokens(self) -> dict[str, int]:
        """Tokens by modality."""
        total, codes = int(self.lengths.sum(dtype=np.int64)), 0
        for first in range(0, len(self.lengths), _BLOCK):
            here = slice(first, first + _BLOCK)
            codes += int(self.lengths[here][np.isin(self.modes[here], VISUAL_MODES)].sum(dtype=np.int64))
        return {"text": total - codes, "visual": codes}


class _Blocks:
    """Arrays of one type collected until they are joined."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self.size = 0

    def append(self, values: np.ndarray, dtype: Any) -> None:
        self._parts.append(np.asarray(values, dtype=dtype))
        self.size += len(values)

    def join(self, dtype: Any) -> np.ndarray:
        """All of them; collecting ends."""
        parts, self._parts = self._parts, []
        return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def write_index(file: BinaryIO, lengths: np.ndarray, modes: np.ndarray, boundaries: np.ndarray) -> None:
    """Write the .idx of int32 tokens: header, lengths, byte offsets, document boundaries, modes."""
    file.write(HEADER.pack(MAGIC, VERSION, INT32_CODE, len(lengths), len(boundaries)))
    file.write(lengths.astype("<i4", copy=False).data)
    end = 0
    for first in range(0, len(lengths), _BLOCK):  # of all sequences they would be the largest array in memory
        sizes = lengths[first : first + _BLOCK].astype(np.int64) * np.dtype(TOKEN_DTYPE).itemsize
        ends = end + np.cumsum(sizes)
        file.write((ends - sizes).astype("<i8", copy=False).data)
        end = int(ends[-1])
    file.write(boundaries.astype("<i8", copy=False).data)
    file.write(modes.astype("i1", copy=False).data)
    file.flush()
    os.fsync(file.fileno())


def _close(file: BinaryIO) -> None:
    if not file.closed:
        file.flush()
        os.fsync(file.fileno())
        file.close()
