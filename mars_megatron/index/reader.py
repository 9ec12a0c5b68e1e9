"""Reading an index: the one place that knows how its files are laid out. Everything is memory-mapped.

Each file can be opened by itself, so that validation can say what is wrong with one when another is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mars_megatron.index.manifest import Manifest, manifest_problems
from mars_megatron.index.writer import HEADER, INT32_CODE, MAGIC, TOKEN_DTYPE, VERSION

ITEM_BYTES = np.dtype(TOKEN_DTYPE).itemsize
BLOCK_BYTES = 16 << 20  # of a .bin, read at once
BLOCK_SEQUENCES = 1 << 20  # looked at at once


@dataclass(frozen=True)
class IndexArrays:
    """The arrays of a .idx, memory-mapped: while any of them or a view of one lives, so does an open file.

    Args:
        lengths: int32 [S], tokens of each sequence.
        offsets: int64 [S], where each begins in the .bin, in bytes.
        boundaries: int64 [D + 1], the first sequence of each document, and S.
        modes: int8 [S], of index.modes.
    """

    lengths: np.ndarray
    offsets: np.ndarray
    boundaries: np.ndarray
    modes: np.ndarray

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def num_documents(self) -> int:
        return len(self.boundaries) - 1

    def num_tokens(self) -> int:
        """Sum of the lengths."""
        return int(self.lengths.sum(dtype=np.int64))

    def document_blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """(first document, end, first sequence, end) of runs of documents of about BLOCK_SEQUENCES sequences.

        The boundaries must be in order.
        """
        first = 0
        while first < self.num_documents:
            end = min(first + BLOCK_SEQUENCES, self.num_documents)
            limit = int(self.boundaries[first]) + BLOCK_SEQUENCES
            within = int(np.searchsorted(np.asarray(self.boundaries[first + 1 : end + 1]), limit, side="right"))
            end = first + max(within, 1)
            yield first, end, int(self.boundaries[first]), int(self.boundaries[end])
            first = end


@dataclass(frozen=True)
class OpenedIndex:
    """A complete index whose files have the sizes that they should have.

    Args:
        prefix: Its path without ending.
        manifest: PREFIX.json.
        arrays: PREFIX.idx.
        weights: float32 [S], memory-mapped; None where all captions weigh the same.
    """

    prefix: str
    manifest: Manifest
    arrays: IndexArrays
    weights: np.ndarray | None

    def path(self, ending: str) -> Path:
        return index_path(self.prefix, ending)

    def sequences(self, document: int) -> list[tuple[int, np.ndarray]]:
        """(mode, tokens int64) of the sequences of a document."""
        first, end = self.arrays.boundaries[document : document + 2].tolist()
        lengths = self.arrays.lengths[first:end]
        size = int(lengths.sum(dtype=np.int64))
        tokens = np.fromfile(self.path("bin"), dtype="<i4", count=size, offset=int(self.arrays.offsets[first]))
        parts = np.split(tokens.astype(np.int64), np.cumsum(lengths[:-1]))
        return list(zip(self.arrays.modes[first:end].tolist(), parts, strict=True))


def index_path(prefix: str | Path, ending: str) -> Path:
    """PREFIX.ENDING."""
    return Path(f"{prefix}.{ending}")


def open_index(prefix: str | Path) -> OpenedIndex:
    """Open an index whose manifest, sizes and boundaries can be relied on; of the .idx, modes and offsets are not read.

    Raises:
        ValueError: It is not complete or damaged, or a file is missing, truncated or of another format.
    """
    manifest = Manifest.read(index_path(prefix, "json"))
    problems = list(manifest_problems(manifest))
    arrays = read_arrays(index_path(prefix, "idx"))
    check_tokens_size(index_path(prefix, "bin"), arrays)
    bounds = np.asarray(arrays.boundaries)
    if bounds[0] != 0 or bounds[-1] != arrays.num_sequences or not (bounds[1:] > bounds[:-1]).all():
        problems.append("its documents do not cover its sequences")
    if problems:
        raise ValueError(
            f"{prefix} is damaged: {problems[0]}; `tools/index_data.py validate {prefix}` lists everything"
        )
    weights = read_weights(index_path(prefix, "weights.npy"), arrays) if manifest.caption_weights else None
    return OpenedIndex(str(prefix), manifest, arrays, weights)


def read_arrays(path: Path) -> IndexArrays:
    """Map the arrays of a .idx.

    Raises:
        ValueError: The file is missing, or not the .idx of an index of int32 tokens with modes.
    """
    _must_exist(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise ValueError(f"{path} is not an index of megatron-core (or is truncated)")
    _, version, code, num_sequences, num_boundaries = HEADER.unpack(header)
    if (version, code) != (VERSION, INT32_CODE):
        raise ValueError(
            f"{path} has version {version} and type number {code} of its tokens; indices of this project have "
            f"{VERSION} and {INT32_CODE} (int32)"
        )
    if num_boundaries < 1:
        raise ValueError(f"{path} has no document boundaries; there is one at least, 0")
    expected = HEADER.size + num_sequences * (4 + 8 + 1) + num_boundaries * 8
    if size != expected:
        raise ValueError(
            f"{path} has {size} bytes, its header describes {expected}: truncated, or written without modes; make it "
            "again with tools/index_data.py"
        )
    data = np.memmap(path, dtype=np.uint8, mode="r")
    at = HEADER.size

    def take(count: int, dtype: str) -> np.ndarray:
        nonlocal at
        end = at + count * np.dtype(dtype).itemsize
        part, at = data[at:end].view(np.ndarray).view(dtype), end
        return part

    lengths, offsets = take(num_sequences, "<i4"), take(num_sequences, "<i8")
    boundaries, modes = take(num_boundaries, "<i8"), take(num_sequences, "i1")
    return IndexArrays(lengths, offsets, boundaries, modes)


def check_tokens_size(path: Path, arrays: IndexArrays) -> None:
    """Raise ValueError where a .bin is missing or has not the size that its index describes."""
    _must_exist(path)
    found, expected = path.stat().st_size, arrays.num_tokens() * ITEM_BYTES
    if found != expected:
        raise ValueError(
            f"{path} has {found} bytes, its index describes {expected}: truncated or not of this index; "
            "make it again with tools/index_data.py"
        )


def read_tokens(path: Path, arrays: IndexArrays) -> np.ndarray:
    """Map the tokens of a .bin, int32 [sum of lengths]; errors as for `check_tokens_size`."""
    check_tokens_size(path, arrays)
    if not path.stat().st_size:
        return np.zeros(0, dtype=TOKEN_DTYPE)
    return np.memmap(path, dtype="<i4", mode="r").view(np.ndarray)


def read_weights(path: Path, arrays: IndexArrays) -> np.ndarray:
    """Map a .weights.npy.

    Raises:
        ValueError: It is missing, cannot be read, or is not a float32 for each sequence.
    """
    _must_exist(path)
    try:
        weights = np.load(path, mmap_mode="r" if arrays.num_sequences else None, allow_pickle=False)
    except Exception as error:  # numpy's parser of a damaged header raises whatever Python's raises
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(weights, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays, not one array")
    if weights.dtype != np.float32 or weights.shape != arrays.lengths.shape:
        raise ValueError(
            f"{path} has {weights.dtype} {weights.shape}; float32 ({arrays.num_sequences},) fits the index"
        )
    return weights


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; an index is made by tools/index_data.py, and named by its path without ending"
        )
