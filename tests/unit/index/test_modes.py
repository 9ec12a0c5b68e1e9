"""The kind of a document follows from the modes of its sequences."""

from __future__ import annotations

import numpy as np
import pytest

from mars_megatron.index.modes import (
    KIND_IMAGE,
    KIND_INTERLEAVED,
    KIND_PAIR,
    KIND_TEXT,
    MODE_IMAGE,
    MODE_LOW,
    MODE_PART_IMAGE,
    MODE_PART_TEXT,
    MODE_TEXT,
    NUM_IMAGES,
    document_kind,
    document_kinds,
)

DOCUMENTS = [
    ([MODE_TEXT], KIND_TEXT, 0),
    ([MODE_TEXT, MODE_TEXT, MODE_IMAGE], KIND_IMAGE, 1),
    ([MODE_IMAGE], KIND_IMAGE, 1),  # without a caption: validation's question
    ([MODE_TEXT, MODE_LOW, MODE_IMAGE], KIND_PAIR, 2),
    ([MODE_PART_IMAGE, MODE_PART_TEXT], KIND_INTERLEAVED, 0),
    ([MODE_PART_TEXT, MODE_PART_IMAGE], KIND_INTERLEAVED, 0),
    ([MODE_LOW], KIND_TEXT, 0),
]


@pytest.mark.parametrize(("modes", "kind", "images"), DOCUMENTS)
def test_kind_of_one(modes: list[int], kind: int, images: int) -> None:
    assert document_kind(np.array(modes, dtype=np.int8)) == kind and NUM_IMAGES[kind] == images


def test_a_document_does_not_look_into_its_neighbour() -> None:
    # The image alone stands behind a document that ends in a low-resolution one.
    order = [6, 2, 0, 3, 4, 1, 5]
    modes = np.concatenate([DOCUMENTS[number][0] for number in order]).astype(np.int8)
    boundaries = np.cumsum([0, *(len(DOCUMENTS[number][0]) for number in order)])
    assert document_kinds(modes, boundaries).tolist() == [DOCUMENTS[number][1] for number in order]
