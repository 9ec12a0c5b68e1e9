import numpy as np
import pytest
import torch

from mars_megatron.config.schema import ImageConfig, RunConfig, VocabularyConfig
from mars_megatron.sequence.vocabulary import SPECIALS, Vocabulary


def test_paper_sizes():
    sizes = VocabularyConfig(text_size=151936, codebook_size=8192, pad_multiple=8)
    vocabulary = Vocabulary.from_config(RunConfig(vocabulary=sizes))
    assert vocabulary.size == 151936 + 8192 + 6
    assert vocabulary.padded_text_size + vocabulary.padded_image_size == 160136  # the paper's figure


def test_layout_is_text_then_codes_then_specials():
    vocabulary = Vocabulary(text_size=10, codebook_size=4, pad_multiple=8)
    assert [vocabulary.special(name) for name in SPECIALS] == [14, 15, 16, 17, 18, 19]
    assert (vocabulary.boi, vocabulary.eoi) == (14, 15)
    assert vocabulary.padded_text_size == 16 and vocabulary.padded_image_size == 16
    codes = torch.arange(4)
    assert vocabulary.code_to_id(codes).tolist() == [10, 11, 12, 13]
    assert torch.equal(vocabulary.id_to_code(vocabulary.code_to_id(codes)), codes)
    assert vocabulary.image_row(vocabulary.boi) == 4


def test_start_slots_are_boi_and_rows_behind_the_specials():
    run = RunConfig(vocabulary=VocabularyConfig(text_size=10, codebook_size=4), image=ImageConfig(next_k=3))
    vocabulary = Vocabulary.from_config(run)
    assert vocabulary.start_slots == (14, 20, 21) and vocabulary.size == 22
    assert Vocabulary(10, 4).start_slots == (14,) and Vocabulary(10, 4).size == 20


def test_everything_that_is_not_text_is_visual():
    vocabulary = Vocabulary(text_size=10, codebook_size=4)
    modality = vocabulary.modality(torch.arange(vocabulary.size))
    assert modality.dtype == torch.uint8
    assert modality.tolist() == [0] * 10 + [1] * (4 + 6)


def test_modality_values_are_those_of_the_plan():
    from mars_megatron.sequence.plan import TEXT, VISUAL

    assert Vocabulary(2, 2).modality(torch.tensor([0, 2])).tolist() == [TEXT, VISUAL]


def test_bad_size_names_the_setting():
    with pytest.raises(ValueError, match="vocabulary.codebook_size is 0"):
        Vocabulary(text_size=10, codebook_size=0)


def test_an_image_is_framed_alike_alone_and_among_others():
    vocabulary = Vocabulary(text_size=10, codebook_size=4)
    codes = np.array([[3, 0, 1], [2, 2, 0]])
    expected = [[14, 13, 10, 11, 15], [14, 12, 12, 10, 15]]
    for given in (codes, torch.from_numpy(codes), codes.astype(np.int32)):
        assert vocabulary.frame(given).dtype == np.int64
        assert vocabulary.frame(given).tolist() == expected and vocabulary.frame(given[1]).tolist() == expected[1]
    assert vocabulary.frame(codes[:0]).shape == (0, 5)
