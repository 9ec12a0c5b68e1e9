import numpy as np
import pytest

from mars_megatron.sequence.samples import I2T, SR, T2I, TEXT_ONLY, make_interleaved, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=10, codebook_size=4)  # codes 10..13, BOI 14, EOI 15
EOS = 2
TEXT = np.array([5, 6, 7])
CODES = np.array([3, 0])
LOW = np.array([1])


@pytest.mark.parametrize(
    ("task", "text", "codes", "low", "inputs", "targets"),
    [
        (T2I, TEXT, CODES, None, [5, 6, 7, 14, 13, 10], [13, 10, 15]),
        (T2I, None, CODES, None, [14, 13, 10], [13, 10, 15]),
        (I2T, TEXT, CODES, None, [14, 13, 10, 15, 5, 6, 7], [5, 6, 7, 2]),
        (SR, TEXT, CODES, LOW, [14, 11, 15, 5, 6, 7, 14, 13, 10], [13, 10, 15]),
        (SR, None, CODES, LOW, [14, 11, 15, 14, 13, 10], [13, 10, 15]),
        (TEXT_ONLY, TEXT, None, None, [5, 6, 7], [6, 7, 2]),
    ],
    ids=["t2i", "t2i without caption", "i2t", "sr", "sr without caption", "text"],
)
def test_layout_inputs_and_trained_targets(task, text, codes, low, inputs, targets):
    check(make_sample(task, text, codes, VOCABULARY, EOS, low), inputs, targets)


@pytest.mark.parametrize(
    ("parts", "inputs"),
    [
        ([(False, TEXT), (True, CODES)], [5, 6, 7, 14, 13, 10, 15]),
        ([(True, CODES), (False, TEXT), (True, LOW)], [14, 13, 10, 15, 5, 6, 7, 14, 11, 15]),
        ([(False, TEXT)], [5, 6, 7]),
    ],
)
def test_interleaved_documents_learn_all_but_their_first_token(parts, inputs):
    check(make_interleaved(parts, VOCABULARY, EOS), inputs, [*inputs[1:], EOS])


@pytest.mark.parametrize("text", [TEXT, None])
@pytest.mark.parametrize("num_slots", [1, 2, 4])
def test_super_resolution_predicts_k_places_on(num_slots, text):
    vocabulary = Vocabulary(text_size=10, codebook_size=4, num_slots=num_slots)
    codes, order = np.array([0, 1, 2, 3]), np.array([2, 0, 3, 1])
    inputs, targets, mask = make_sample(SR, text, codes, vocabulary, EOS, LOW, order)
    prefix = [14, 11, 15, *([] if text is None else [5, 6, 7])]
    high = [12, 10, 13, 11, 15]  # in the order of prediction, and EOI
    row = [*prefix, *vocabulary.start_slots, *high]
    assert inputs.tolist() == row[:-num_slots] and targets.tolist() == row[num_slots:]
    assert mask.tolist() == [False] * len(prefix) + [True] * len(high)
    assert targets[mask].tolist() == high
    assert len(inputs) == len(make_sample(SR, text, codes, VOCABULARY, EOS, LOW)[0]), "K does not change the rows"


def check(sample, inputs, targets):
    got_inputs, got_targets, mask = sample
    assert got_inputs.dtype == got_targets.dtype == np.int64 and mask.dtype == bool
    assert got_inputs.tolist() == inputs
    assert got_targets[mask].tolist() == targets
    assert got_targets[:-1].tolist() == inputs[1:]  # each position predicts the next token
