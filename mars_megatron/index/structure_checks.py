"""Validation of a .idx: pointers, the shape of documents, counts."""

from __future__ import annotations

import numpy as np

from mars_megatron.index.findings import Validation
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import (
    KIND_IMAGE,
    KIND_INTERLEAVED,
    KIND_PAIR,
    KIND_TEXT,
    KINDS,
    MODE_IMAGE,
    MODE_LOW,
    MODE_PART_IMAGE,
    MODE_PART_TEXT,
    MODE_TEXT,
    NUM_IMAGES,
    NUM_MODES,
    document_kinds,
)
from mars_megatron.index.reader import (
    BLOCK_SEQUENCES,
    ITEM_BYTES,
    IndexArrays,
)
from mars_megatron.index.writer import VISUAL_MODES

MAX_CAPTIONS = 65535  # csrc/corpus.cpp counts them in 16 bits


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
        found.many(
            f"{name}: a document of more than {MAX_CAPTIONS} captions, which a loader refuses",
            "document",
            (kind != KIND_INTERLEAVED) & (np.diff(boundaries) - NUM_IMAGES[kind] > MAX_CAPTIONS),
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
    """Whether the modes of each document are those of its kind (data.modes), bool [D]."""
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
