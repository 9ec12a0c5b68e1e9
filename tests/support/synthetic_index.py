"""Indices of random tokens, of any kinds of documents, written without tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mars_megatron.index.manifest import ImageTokenizerInfo, Manifest, TextTokenizerInfo
from mars_megatron.index.modes import MODE_IMAGE, MODE_LOW, MODE_PART_IMAGE, MODE_PART_TEXT, MODE_TEXT
from mars_megatron.index.writer import IndexWriter

TEXT_SIZE, CODEBOOK_SIZE, EOS = 60, 32, 1
GRID, LOW_GRID = (4, 4), (2, 2)


def random_document(
    rng: np.random.Generator, kind: str, text: tuple[int, int] = (1, 12), side: int = GRID[0]
) -> list[tuple[int, int]]:
    """(mode, length) of each sequence of a document."""
    codes, low = side**2, (side // 2) ** 2

    def length() -> int:
        return int(rng.integers(text[0], text[1] + 1))

    if kind == "text":
        return [(MODE_TEXT, length())]
    if kind == "interleaved":
        parts = rng.integers(0, 2, int(rng.integers(1, 5)))
        return [(MODE_PART_IMAGE, codes) if part else (MODE_PART_TEXT, length()) for part in parts]
    captions = [(MODE_TEXT, length()) for _ in range(int(rng.integers(1, 4)))]
    return captions + ([(MODE_LOW, low)] if kind == "pair" else []) + [(MODE_IMAGE, codes)]


def write_synthetic(
    prefix: str | Path,
    kinds: Sequence[str],
    *,
    seed: int = 0,
    weights: bool = False,
    text: tuple[int, int] = (1, 12),
    side: int = GRID[0],
) -> str:
    """Write one document of each of the named kinds, in this order; returns the prefix.

    Args:
        prefix: Where to.
        kinds: text, image, pair or interleaved.
        seed: Of lengths and tokens.
        weights: Give captions random weights.
        text: Shortest and longest text.
        side: Codes along each side of an image; half of it for the low resolution.
    """
    rng = np.random.default_rng(seed)
    documents = [random_document(rng, kind, text, side) for kind in kinds]
    sequences = [sequence for document in documents for sequence in document]
    modes = np.array([mode for mode, _ in sequences], dtype=np.int8)
    lengths = np.array([length for _, length in sequences], dtype=np.int32)
    is_text = np.isin(modes, (MODE_TEXT, MODE_PART_TEXT))
    tokens = np.where(
        np.repeat(is_text, lengths),
        rng.integers(2, TEXT_SIZE, lengths.sum()),
        rng.integers(0, CODEBOOK_SIZE, lengths.sum()),
    ).astype(np.int32)
    writer = IndexWriter(prefix)
    try:
        drawn = rng.integers(1, 6, len(modes)).astype(np.float32) if weights else None
        writer.add(tokens, lengths, modes, np.array([len(document) for document in documents]), drawn)
        has_images, has_pairs = bool((~is_text).any()), "pair" in kinds
        image = ImageTokenizerInfo("", "", CODEBOOK_SIZE, (side, side), 4 * side)
        if has_pairs:
            image = replace(image, low_grid=(side // 2, side // 2), low_resolution=2 * side)
        writer.commit(
            lambda contents: Manifest(
                documents=contents.documents(),
                tokens=contents.tokens(),
                text_tokenizer=TextTokenizerInfo("", "", TEXT_SIZE, EOS, None),
                image_tokenizer=image if has_images else None,
                caption_weights=contents.has_weights,
                sha256=contents.sha256,
            )
        )
    finally:
        writer.discard()
    return str(prefix)
