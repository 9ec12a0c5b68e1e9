"""Tasks: how the parts of a document become one training sample.

    t2i    caption BOI codes EOI        loss on the codes and EOI; a dropped caption leaves BOI codes EOI
    i2t    BOI codes EOI caption EOS    loss on the caption and EOS
    text   tokens EOS                   loss on every token but the first

The last token of a layout is a target only, so a sample has one row less than its layout has tokens.
"""

from __future__ import annotations

import numpy as np

from mars_megatron.data.batch import Sample
from mars_megatron.tokenizers.vocabulary import Vocabulary

T2I, I2T, TEXT_ONLY = range(3)
TASKS = ("t2i", "i2t", "text")

# Rows beside text and codes: BOI and EOI or EOS, less the last token of the layout, which is no input.
_EXTRA_ROWS = (1, 2, 0)

_NO_TEXT = np.zeros(0, dtype=np.int64)


def num_rows(task, num_text, num_codes):
    """Input rows of a sample of num_text text ids and num_codes codes; ints or arrays."""
    return num_text + num_codes + np.asarray(_EXTRA_ROWS)[task]


def make_sample(
    task: int, text: np.ndarray | None, codes: np.ndarray | None, vocabulary: Vocabulary, eos_id: int
) -> Sample:
    """Lay out one sample.

    Args:
        task: T2I, I2T or TEXT_ONLY.
        text: int64 text ids; None only for T2I with the caption dropped.
        codes: int64 raw codes; None only for TEXT_ONLY.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.

    Returns:
        Joined input ids int64 [n], target ids int64 [n], loss mask bool [n].
    """
    if task == TEXT_ONLY:
        assert text is not None
        layout = np.concatenate([text, [eos_id]])
        first_target = 1
    else:
        assert codes is not None
        image = np.concatenate([[vocabulary.boi], vocabulary.code_to_id(codes), [vocabulary.eoi]])
        if task == T2I:
            text = _NO_TEXT if text is None else text
            layout = np.concatenate([text, image])
            first_target = len(text) + 1  # the first code
        else:
            assert task == I2T and text is not None
            layout = np.concatenate([image, text, [eos_id]])
            first_target = len(image)
    mask = np.arange(1, len(layout)) >= first_target
    return layout[:-1], layout[1:], mask
