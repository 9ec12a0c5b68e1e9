"""Validation of a .bin: its checksum, and every id in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from mars_megatron.index.findings import Validation, checksum_problem
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import (
    NUM_MODES,
)
from mars_megatron.index.reader import (
    BLOCK_BYTES,
    BLOCK_SEQUENCES,
    ITEM_BYTES,
    IndexArrays,
    check_tokens_size,
    index_path,
)
from mars_megatron.index.writer import VISUAL_MODES


def check_tokens(
    prefix: str | Path, arrays: IndexArrays | None, manifest: Manifest | None, found: Validation, progress: bool
) -> None:
    """One pass over the .bin: its checksum, and whether every id is one of its tokenizer."""
    path = index_path(prefix, "bin")
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    fits = False
    if arrays is not None and (arrays.num_sequences == 0 or arrays.lengths.min() >= 0):
        with found.catching():
            check_tokens_size(path, arrays)
            fits = True
    digest = hashlib.sha256()
    with (
        path.open("rb", buffering=0) as file,
        tqdm(
            total=path.stat().st_size, desc=f"read {path.name}", unit="B", unit_scale=True, disable=not progress
        ) as bar,
        ThreadPoolExecutor(1) as pool,
    ):
        if fits and arrays is not None and manifest is not None:
            limits = _limits(manifest)
            pieces: Iterator[tuple[np.ndarray, np.ndarray]] = _pieces(arrays.lengths)
        else:
            limits, pieces = np.zeros(0), iter(())
        for owners, lengths in pieces:
            block = _read_exactly(file, int(lengths.sum()) * ITEM_BYTES)
            hashed = pool.submit(digest.update, block)  # lets go of the GIL
            # unsigned: a negative id is a large one
            largest = np.maximum.reduceat(np.frombuffer(block, "<u4"), np.cumsum(lengths) - lengths)
            assert arrays is not None
            modes = np.clip(arrays.modes[owners], 0, NUM_MODES - 1)
            outside = largest >= limits[modes]
            for modality, mine in (("text id", ~np.isin(modes, VISUAL_MODES)), ("code", np.isin(modes, VISUAL_MODES))):
                bad = np.zeros(int(owners[-1] - owners[0]) + 1, dtype=bool)
                bad[owners[outside & mine] - owners[0]] = True
                found.many(f"{path}: a {modality} that its tokenizer does not have", "sequence", bad, int(owners[0]))
            hashed.result()
            bar.update(len(block))
        while rest := file.read(BLOCK_BYTES):
            digest.update(rest)
            bar.update(len(rest))
    if manifest is not None and digest.hexdigest() != manifest.sha256.get("bin"):
        found.problems.append(checksum_problem(path, digest.hexdigest(), manifest.sha256.get("bin")))


def _limits(manifest: Manifest) -> np.ndarray:
    """The first id that a sequence of each mode may not have, int64 [NUM_MODES]."""
    limits = np.full(NUM_MODES, manifest.text_tokenizer.size, dtype=np.int64)
    image = manifest.image_tokenizer
    limits[list(VISUAL_MODES)] = image.codebook_size if image is not None else 0
    return limits


def _pieces(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs of sequences of about BLOCK_BYTES: (number of the sequence, tokens) of each piece, int64 [n].

    A piece is a whole sequence, or a part of one that is too long to be read at once. Sequences without tokens are left
    out.
    """
    most = BLOCK_BYTES // ITEM_BYTES
    for first in range(0, len(lengths), BLOCK_SEQUENCES):
        here = lengths[first : first + BLOCK_SEQUENCES].astype(np.int64)
        parts = -(-here // most)
        owners = np.repeat(np.arange(first, first + len(here)), parts)
        sizes = np.full(len(owners), most, dtype=np.int64)
        last = np.cumsum(parts)[parts > 0] - 1
        sizes[last] = (here - (parts - 1) * most)[parts > 0]
        ends = np.cumsum(sizes)
        begin = 0
        while begin < len(sizes):
            before = int(ends[begin - 1]) if begin else 0
            end = max(int(np.searchsorted(ends, before + most, side="right")), begin + 1)
            yield owners[begin:end], sizes[begin:end]
            begin = end


def _read_exactly(file: BinaryIO, size: int) -> bytearray:
    block = bytearray(size)
    view, at = memoryview(block), 0
    while at < size:
        count = file.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"{file.name} became shorter while it was read")
        at += count
    return block
