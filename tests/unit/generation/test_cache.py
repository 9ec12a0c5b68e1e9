"""Decoding with the cache is the same function as the whole forward."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.generation.batches import pack_samples
from mars_megatron.generation.decoding import Decoder, inference
from mars_megatron.model import MARSModel
from mars_megatron.ops import TEXT, VISUAL
from mars_megatron.tokenizers.vocabulary import Vocabulary


def whole_forward(model: MARSModel, vocabulary: Vocabulary, samples: list[list[int]]) -> list[torch.Tensor]:
    """Logits of every token of each sample, without a cache."""
    batch = pack_samples(samples, vocabulary, every_token=True)
    with inference(model):
        logits = model(batch, return_logits=True)
    return list(logits.split([len(sample) for sample in samples]))


@pytest.mark.parametrize("modality", [TEXT, VISUAL])
def test_cached_logits_equal_the_whole_forward(model: MARSModel, vocabulary: Vocabulary, modality: int) -> None:
    boi, eoi, first_code = vocabulary.boi, vocabulary.eoi, vocabulary.text_size
    generator = torch.Generator().manual_seed(0)
    if modality == VISUAL:  # ragged prompts, one of them empty
        beginnings = [[3, 4, 5, boi], [boi], [7, boi], [1, 2, 3, 4, 5, 6, 7, boi]]
        new = torch.randint(first_code, first_code + vocabulary.codebook_size, (4, 6), generator=generator)
    else:
        codes = torch.randint(first_code, boi, (4, 9), generator=generator).tolist()
        beginnings = [[boi, *image[: 9 - number], eoi] for number, image in enumerate(codes)]
        new = torch.randint(0, first_code, (4, 6), generator=generator)

    whole = whole_forward(
        model, vocabulary, [[*begin, *ids] for begin, ids in zip(beginnings, new.tolist(), strict=True)]
    )
    decoder = Decoder(model, vocabulary, beginnings, modality, new.shape[1])
    with inference(model):
        cached = [decoder.start(), *(decoder.step(ids) for ids in new.T)]
    for step, logits in enumerate(cached):
        assert logits.shape == (4, vocabulary.size)
        for number, begin in enumerate(beginnings):
            expected = whole[number][len(begin) - 1 + step]
            torch.testing.assert_close(logits[number], expected, rtol=1e-4, atol=1e-4)


def test_logits_depend_on_the_sample_alone(model: MARSModel, vocabulary: Vocabulary) -> None:
    samples = [[3, 4, vocabulary.boi], [7, vocabulary.boi, vocabulary.text_size]]
    together = whole_forward(model, vocabulary, samples)
    for sample, logits in zip(samples, together, strict=True):
        (alone,) = whole_forward(model, vocabulary, [sample])
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
    assert (together[0][-1] - together[1][-2]).abs().max() > 0.1, "prompts must matter for this to test anything"
