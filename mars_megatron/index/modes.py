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
VISUAL_MODES = (MODE_IMAGE, MODE_LOW, MODE_PART_IMAGE)

# The kind of a document follows from its modes; csrc/corpus.cpp knows the same numbers.
#   text          0
#   image         0 ... 0 1        captions, image
#   pair          0 ... 0 2 1      captions, the image at low and at high resolution
#   interleaved   3 or 4, any number in any order
KIND_TEXT, KIND_IMAGE, KIND_PAIR, KIND_INTERLEAVED = range(4)
KINDS = ("text", "image", "pair", "interleaved")
NUM_IMAGES = np.array([0, 1, 2, 0])  # of each kind, behind its captions
MAX_CAPTIONS = 65535  # of a document; csrc/corpus.cpp counts them in 16 bits


def document_kind(modes: np.ndarray) -> int:
    """Kind of one document, from its last modes; whether the others fit is validation's question.

    Args:
        modes: int8 [s], of its sequences; at least one.
    """
    last = modes[-1]
    if last in (MODE_PART_TEXT, MODE_PART_IMAGE):
        return KIND_INTERLEAVED
    if last != MODE_IMAGE:
        return KIND_TEXT
    return KIND_PAIR if len(modes) > 1 and modes[-2] == MODE_LOW else KIND_IMAGE


def document_kinds(modes: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """The same of many documents, int8 [D].

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
