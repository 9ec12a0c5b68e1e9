"""What the sequences of an index are, and what kinds of documents they form. index/FORMAT.md is the reference."""

from __future__ import annotations

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
