import numpy as np
import pytest

from mars_megatron.data.samples import I2T, T2I, TEXT_ONLY, make_sample, num_rows
from mars_megatron.tokenizers import Vocabulary

VOCABULARY = Vocabulary(text_size=10, codebook_size=4)  # codes 10..13, BOI 14, EOI 15
EOS = 2
TEXT = np.array([5, 6, 7])
CODES = np.array([3, 0])


@pytest.mark.parametrize(
    ("task", "text", "codes", "inputs", "targets"),
    [
        (T2I, TEXT, CODES, [5, 6, 7, 14, 13, 10], [13, 10, 15]),
        (T2I, None, CODES, [14, 13, 10], [13, 10, 15]),
        (I2T, TEXT, CODES, [14, 13, 10, 15, 5, 6, 7], [5, 6, 7, 2]),
        (TEXT_ONLY, TEXT, None, [5, 6, 7], [6, 7, 2]),
    ],
    ids=["t2i", "t2i without caption", "i2t", "text"],
)
def test_layout_inputs_and_trained_targets(task, text, codes, inputs, targets):
    got_inputs, got_targets, mask = make_sample(task, text, codes, VOCABULARY, EOS)
    assert got_inputs.dtype == got_targets.dtype == np.int64 and mask.dtype == bool
    assert got_inputs.tolist() == inputs
    assert got_targets[mask].tolist() == targets
    assert got_targets[:-1].tolist() == inputs[1:]  # each position predicts the next token
    assert len(inputs) == num_rows(task, 0 if text is None else len(text), 0 if codes is None else len(codes))
