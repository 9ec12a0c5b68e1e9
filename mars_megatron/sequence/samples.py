"""Tasks: how the parts of a document become one training sample.

    t2i            caption BOI codes EOI                    loss on the codes and EOI
    i2t            BOI codes EOI caption EOS                loss on the caption and EOS
    sr             BOI low EOI caption SLOTS high EOI       loss on the high-resolution codes and EOI
    text           tokens EOS                               loss on every token but the first
    interleaved    texts and BOI codes EOI, in order, EOS   loss on every token but the first

A dropped caption (for classifier-free guidance) leaves t2i and sr without their text. The last token of a layout is a
target only, so a sample has one row less than its layout has tokens.

SLOTS are the K start slots of next-K-token prediction; with K = 1 that is BOI. In an sr sample every row predicts the
token K places on: the slots the first K codes, each code the K-th one after it. The attention stays causal, and the
last K tokens are targets only, so that a sample has the same rows whatever K is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mars_megatron.index.modes import KIND_IMAGE, KIND_INTERLEAVED, KIND_PAIR, KIND_TEXT
from mars_megatron.sequence.vocabulary import Vocabulary

if TYPE_CHECKING:
    from mars_megatron.sequence.batch import Sample

T2I, I2T, SR, TEXT_ONLY, INTERLEAVED = range(5)  # csrc/corpus.h has the same numbers
TASKS = ("t2i", "i2t", "sr", "text", "interleaved")

# Which documents serve which tasks; a pair serves t2i and i2t with its high-resolution image.
TASKS_OF_KIND = {
    KIND_TEXT: (TEXT_ONLY,),
    KIND_IMAGE: (T2I, I2T),
    KIND_PAIR: (T2I, I2T, SR),
    KIND_INTERLEAVED: (INTERLEAVED,),
}
# Samples whose layout has an image in front of text, whatever the document, if their text is not dropped.
IMAGE_BEFORE_TEXT = (I2T, SR)

_NO_TEXT = np.zeros(0, dtype=np.int64)


def make_sample(
    task: int,
    text: np.ndarray | None,
    codes: np.ndarray | None,
    vocabulary: Vocabulary,
    eos_id: int,
    low_codes: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> Sample:
    """Lay out one sample that is not interleaved.

    Args:
        task: T2I, I2T, SR or TEXT_ONLY.
        text: int64 text ids; None only for T2I and SR with the caption dropped.
        codes: int64 raw codes (SR: of the high resolution); None only for TEXT_ONLY.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.
        low_codes: int64 raw codes of the low resolution; for SR alone.
        order: int64 [codes], raster place of each high-resolution code in the order of prediction (`code_order`); for
            SR alone. None is row by row.

    Returns:
        Joined input ids int64 [n], target ids int64 [n], loss mask bool [n].
    """
    end = np.array([eos_id])
    if task == TEXT_ONLY:
        assert text is not None
        return _with_loss_from(1, text, end)
    assert codes is not None
    image = vocabulary.frame(codes)
    if task == I2T:
        assert text is not None
        return _with_loss_from(len(image), image, text, end)
    text = _NO_TEXT if text is None else text
    if task == T2I:
        return _with_loss_from(len(text) + 1, text, image)  # from the first code on
    assert task == SR and low_codes is not None
    low, slots = vocabulary.frame(low_codes), np.array(vocabulary.start_slots)
    high = vocabulary.code_to_id(codes if order is None else codes[order])
    start = len(low) + len(text) + len(slots)
    return _with_loss_from(start, low, text, slots, high, np.array([vocabulary.eoi]), distance=len(slots))


def make_interleaved(parts: Sequence[tuple[bool, np.ndarray]], vocabulary: Vocabulary, eos_id: int) -> Sample:
    """Lay out an interleaved document.

    Args:
        parts: (is an image, int64 raw codes or text ids) in order.
        vocabulary, eos_id, Returns: As of make_sample.
    """
    laid_out = [vocabulary.frame(tokens) if is_image else tokens for is_image, tokens in parts]
    return _with_loss_from(1, *laid_out, np.array([eos_id]))


def _with_loss_from(first_target: int, *parts: np.ndarray, distance: int = 1) -> Sample:
    """Every row predicts the token `distance` further on; only targets from `first_target` on are learned."""
    layout = np.concatenate(parts)
    mask = np.arange(distance, len(layout)) >= first_target
    return layout[:-distance], layout[distance:], mask
