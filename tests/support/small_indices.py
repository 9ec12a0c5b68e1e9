"""Indices written without tokenizers: documents as lists of (mode, ids), for tests of what handles finished indices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from mars_megatron.index.manifest import ImageTokenizerInfo, Manifest, SourceInfo, TextTokenizerInfo
from mars_megatron.index.writer import IndexWriter

TEXT = TextTokenizerInfo(path="text.model", fingerprint="t" * 64, size=50, eos_id=2, bos_id=1)
IMAGE = ImageTokenizerInfo("vq", "i" * 64, codebook_size=16, grid=(2, 2), resolution=8)
PAIRS = replace(IMAGE, low_grid=(1, 1), low_resolution=4)

Document = list[tuple[int, list[int]]]

_texts = st.lists(st.integers(0, TEXT.size - 1), min_size=1, max_size=5)
_codes = st.lists(st.integers(0, IMAGE.codebook_size - 1), min_size=4, max_size=4)
_captions = st.lists(_texts, min_size=1, max_size=3).map(lambda texts: [(0, text) for text in texts])
_images = _codes.map(lambda codes: [(1, codes)])
_low = st.integers(0, IMAGE.codebook_size - 1).map(lambda code: [(2, [code])])
_parts = st.lists(st.one_of(_texts.map(lambda t: (3, t)), _codes.map(lambda c: (4, c))), min_size=1, max_size=5)
documents = st.one_of(
    _texts.map(lambda text: [(0, text)]),
    st.tuples(_captions, _images).map(lambda parts: parts[0] + parts[1]),
    st.tuples(_captions, _low, _images).map(lambda parts: parts[0] + parts[1] + parts[2]),
    _parts,
)

MIXED: list[Document] = [
    [(0, [3, 4, 5]), (0, [6]), (1, [0, 1, 2, 15])],
    [(0, [7, 8])],
    [(0, [9]), (2, [3]), (1, [4, 5, 6, 7])],
    [(3, [10, 11]), (4, [8, 9, 10, 11]), (3, [12])],
    [(0, [49]), (1, [1, 1, 1, 1])],
]


def write_index(
    prefix: str | Path,
    docs: list[Document],
    *,
    weights: list[float] | None = None,
    skipped: list[str] = (),
    sources: tuple[SourceInfo, ...] = (),
    settings: dict | None = None,
    text: TextTokenizerInfo = TEXT,
    image: ImageTokenizerInfo | None = PAIRS,
) -> Manifest:
    """Write documents in one go; `weights` are of all sequences, `skipped` the reasons of what was left out."""
    writer = IndexWriter(prefix)
    try:
        sequences = [sequence for document in docs for sequence in document]
        writer.add(
            np.array([token for _, ids in sequences for token in ids], dtype=np.int32),
            np.array([len(ids) for _, ids in sequences], dtype=np.int32),
            np.array([mode for mode, _ in sequences], dtype=np.int8),
            np.array([len(document) for document in docs], dtype=np.int64),
            None if weights is None else np.array(weights, dtype=np.float32),
        )
        for number, reason in enumerate(skipped, start=1):
            writer.skip({"file": str(prefix), "line": number}, reason, "for the test")
        return writer.commit(
            lambda contents: Manifest(
                documents=contents.documents(),
                tokens=contents.tokens(),
                text_tokenizer=text,
                image_tokenizer=image,
                skipped=contents.skipped,
                sources=sources,
                settings=settings or {},
                caption_weights=contents.has_weights,
                sha256=contents.sha256,
            )
        )
    finally:
        writer.discard()
