"""Validation of a .idx and a .bin: pointers, the shape of documents, counts, and every id of the tokens."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import (
    KIND_IMAGE,
    KIND_INTERLEAVED,
    KIND_PAIR,
    KIND_TEXT,
    KINDS,
    MAX_CAPTIONS,
    MODE_IMAGE,
    MODE_LOW,
    MODE_PART_IMAGE,
    MODE_PART_TEXT,
    MODE_TEXT,
    NUM_IMAGES,
    NUM_MODES,
    VISUAL_MODES,
    document_kinds,
)
from mars_megatron.index.reader import (
    BLOCK_BYTES,
    BLOCK_SEQUENCES,
    ITEM_BYTES,
    IndexArrays,
    check_tokens_size,
    index_path,
)

_NUM_EXAMPLES = 5


@dataclass
class Validation:
    """What was found.

    Args:
        prefix: The index.
        summary: One line about what was read.
        problems: One line each; empty if all is well. Where many documents have the same problem, they share a line
            with their number and some of them.
    """

    prefix: str
    summary: str = ""
    problems: list[str] = field(default_factory=list)
    _many: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def many(self, problem: str, what: str, bad: np.ndarray, first: int) -> None:
        """Note that of the things `what`, numbered from `first`, those where `bad` [n] is true have a problem."""
        if not bad.any():
            return
        count, examples = self._many.setdefault(problem, (0, []))
        numbers = np.flatnonzero(bad)[: _NUM_EXAMPLES - len(examples)] + first
        self._many[problem] = (count + int(bad.sum()), examples + [f"{what} {number}" for number in numbers])

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Note what a step raises about files, and go on with the next step."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.problems.append(str(error))

    def finish(self) -> None:
        """Turn what was counted into problems."""
        for problem, (count, examples) in self._many.items():
            more = ", ..." if count > len(examples) else ""
            self.problems.append(f"{problem}: {count} times ({', '.join(examples)}{more})")
        self._many.clear()


def checksum_problem(path: Path, found: str, said: str | None) -> str:
    if said is None:
        return f"{path} exists, the manifest has no checksum of it"
    return f"{path} has sha256 {found}, the manifest says {said}"


def check_pointers(arrays: IndexArrays, found: Validation, name: str) -> bool:
    """Lengths against offsets, and the order of the boundaries; whether documents can be looked at."""
    size, expected = arrays.num_sequences, 0
    sound = True
    for first in range(0, size, BLOCK_SEQUENCES):
        here = slice(first, first + BLOCK_SEQUENCES)
        lengths = arrays.lengths[here].astype(np.int64)
        ends = expected + np.cumsum(lengths) * ITEM_BYTES
        found.many(f"{name}: a sequence without tokens", "sequence", lengths < 1, first)
        found.many(
            f"{name}: an offset that does not follow from the lengths",
            "sequence",
            arrays.offsets[here] != ends - lengths * ITEM_BYTES,
            first,
        )
        modes = arrays.modes[here]
        found.many(f"{name}: a mode that is none", "sequence", (modes < 0) | (modes >= NUM_MODES), first)
        expected = int(ends[-1])
    if arrays.boundaries[0] != 0 or arrays.boundaries[-1] != size:
        sound = False
        found.problems.append(
            f"{name}: the boundaries of the documents go from {arrays.boundaries[0]} to {arrays.boundaries[-1]}, not "
            f"from 0 to the number of sequences, {size}"
        )
    for first in range(0, arrays.num_documents, BLOCK_SEQUENCES):
        bounds = arrays.boundaries[first : first + BLOCK_SEQUENCES + 1]
        empty = bounds[1:] <= bounds[:-1]
        sound &= not empty.any()
        found.many(f"{name}: a document without sequences", "document", empty, first)
    return sound


def check_documents(arrays: IndexArrays, manifest: Manifest | None, found: Validation, name: str) -> None:
    """The modes of each document, the lengths of its images, and the counts of the manifest."""
    kinds = np.zeros(len(KINDS), dtype=np.int64)
    tokens = {"text": 0, "visual": 0}
    image_lengths = _image_lengths(manifest)  # [NUM_MODES], -1 where any length is fine
    for first, end, first_sequence, end_sequence in arrays.document_blocks():
        boundaries = arrays.boundaries[first : end + 1] - first_sequence
        modes = arrays.modes[first_sequence:end_sequence]
        lengths = arrays.lengths[first_sequence:end_sequence].astype(np.int64)
        kind = document_kinds(modes, boundaries)
        found.many(
            f"{name}: a document whose modes are of no kind", "document", ~_well_formed(kind, modes, boundaries), first
        )
        num_images = NUM_IMAGES[kind]
        found.many(
            f"{name}: a document of more than {MAX_CAPTIONS} captions, which a loader refuses",
            "document",
            (kind != KIND_INTERLEAVED) & (np.diff(boundaries) - num_images > MAX_CAPTIONS),
            first,
        )
        kinds += np.bincount(kind, minlength=len(KINDS))
        visual = np.isin(modes, VISUAL_MODES)
        tokens["visual"] += int(lengths[visual].sum())
        tokens["text"] += int(lengths[~visual].sum())
        wanted = image_lengths[np.clip(modes, 0, NUM_MODES - 1)]
        found.many(
            f"{name}: an image whose tokens do not fill the grid",
            "sequence",
            (wanted >= 0) & (lengths != wanted),
            first_sequence,
        )
    if manifest is None:
        return
    counted = dict(zip(KINDS, kinds.tolist(), strict=True))
    if counted != {kind: manifest.documents.get(kind, 0) for kind in KINDS}:
        found.problems.append(f"{name} has documents {counted}, the manifest says {manifest.documents}")
    if tokens != manifest.tokens:
        found.problems.append(f"{name} has tokens {tokens}, the manifest says {manifest.tokens}")
    if tokens["visual"] and manifest.image_tokenizer is None:
        found.problems.append(f"{name} has images, the manifest names no image tokenizer")
    if counted["pair"] and manifest.image_tokenizer and manifest.image_tokenizer.low_grid is None:
        found.problems.append(f"{name} has pairs, the manifest has no low_grid")


def _image_lengths(manifest: Manifest | None) -> np.ndarray:
    lengths = np.full(NUM_MODES, -1, dtype=np.int64)
    image = manifest.image_tokenizer if manifest is not None else None
    if image is not None:
        lengths[[MODE_IMAGE, MODE_PART_IMAGE]] = image.num_codes
        if image.low_grid is not None:
            lengths[MODE_LOW] = image.num_low_codes
    return lengths


def _well_formed(kinds: np.ndarray, modes: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Whether the modes of each document are those of its kind (index.modes), bool [D]."""
    size = np.diff(boundaries)
    has = [np.add.reduceat(modes == mode, boundaries[:-1], dtype=np.int64) for mode in range(NUM_MODES)]  # [D] each
    num_text = has[MODE_TEXT]
    fine = np.zeros(len(kinds), dtype=bool)
    fine |= (kinds == KIND_TEXT) & (size == 1) & (num_text == 1)
    one_image = has[MODE_IMAGE] == 1  # and it is the last sequence, which made the document of this kind
    fine |= (kinds == KIND_IMAGE) & one_image & (num_text == size - 1) & (num_text > 0)
    one_pair = one_image & (has[MODE_LOW] == 1)
    fine |= (kinds == KIND_PAIR) & one_pair & (num_text == size - 2) & (num_text > 0)
    fine |= (kinds == KIND_INTERLEAVED) & (has[MODE_PART_TEXT] + has[MODE_PART_IMAGE] == size)
    return fine


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
