"""What the sequences of an index are, and what kinds of documents they form. index/FORMAT.md is the reference."""

from __future__ import annotations

import numpy as np

# The mode of a sequence, an int8 in the .idx.
MODE_TEXT = 0  # text ids: a caption, or the whole of a text document
MODE_IMAGE = 1  # codes of the image of a document, row by row
MODE_LOW = 2  # codes of the same image at a lower resolution
MODE_PART_TEXT = 3  # text ids: a part of an interleaved document
MODE_PART_IMAGE = 4  # codes: a part of an interleaved document
NUM_MODES = 5

# The kind of a document follows from its modes; csrc/corpus.cpp knows the same numbers.
#   text          0
#   image         0 ... 0 1        captions, image
#   pair          0 ... 0 2 1      captions, the image at low and at high resolution
#   interleaved   3 or 4, any number in any order
KIND_TEXT, KIND_IMAGE, KIND_PAIR, KIND_INTERLEAVED = range(4)
KINDS = ("text", "image", "pair", "interleaved")
NUM_IMAGES = np.array([0, 1, 2, 0])  # of each kind, behind its captions


def document_kinds(modes: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Kind of each document, int8 [D], from its last modes; whether the others fit is validation's question.

    Args:
        modes: int8 [S].
        boundaries: int64 [D + 1]; every document has a sequence.
    """
    last = modes[boundaries[1:] - 1]
    before = modes[np.maximum(boundaries[1:] - 2, boundaries[:-1])]
    kinds = np.full(len(last), KIND_TEXT, dtype=np.int8)
    kinds[last == MODE_IMAGE] = KIND_IMAGE
    kinds[(last == MODE_IMAGE) & (before == MODE_LOW)] = KIND_PAIR
    kinds[(last == MODE_PART_TEXT) | (last == MODE_PART_IMAGE)] = KIND_INTERLEAVED
    return kinds


def document_kind(modes: np.ndarray) -> int:
    """Kind of one document with these modes, int8 [its sequences]."""
    return int(document_kinds(modes, np.array([0, len(modes)]))[0])
