"""Decoding with the cache is the same function as the whole forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.config.schema import ExpertsConfig, RouterConfig
from mars_megatron.model import MARSModel, build_model
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.sampling.decoding import Decoder, inference, pack_samples, sample_lengths
from mars_megatron.sampling.direct import DirectDecoding
from mars_megatron.sequence import TEXT, VISUAL
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import CONFIG, draw_routers, whole_forward


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("modality", [TEXT, VISUAL])
def test_cached_logits_equal_the_whole_forward(
    model: MARSModel, vocabulary: Vocabulary, modality: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DirectDecoding.serves(model)
    if not direct:
        monkeypatch.setattr(DirectDecoding, "serves", lambda model: False)
    boi, eoi, first_code = vocabulary.boi, vocabulary.eoi, vocabulary.text_size
    generator = torch.Generator().manual_seed(0)
    if modality == VISUAL:  # ragged prompts, one of them empty
        prefixes = [[3, 4, 5, boi], [boi], [7, boi], [1, 2, 3, 4, 5, 6, 7, boi]]
        new = torch.randint(first_code, first_code + vocabulary.codebook_size, (4, 6), generator=generator)
    else:
        codes = torch.randint(first_code, boi, (4, 9), generator=generator).tolist()
        prefixes = [[boi, *image[: 9 - number], eoi] for number, image in enumerate(codes)]
        new = torch.randint(0, first_code, (4, 6), generator=generator)

    whole = whole_forward(
        model, vocabulary, [[*prefix, *ids] for prefix, ids in zip(prefixes, new.tolist(), strict=True)]
    )
    decoder = Decoder(model, vocabulary, prefixes, modality, new.shape[1])
    with inference(model):
        cached = [decoder.start(), *(decoder.step(ids) for ids in new.T)]
    for step, logits in enumerate(cached):
        assert logits.shape == (4, vocabulary.image_size if modality == VISUAL else vocabulary.text_size)
        for number, prefix in enumerate(prefixes):
            text, visual = whole[number][len(prefix) - 1 + step].split((vocabulary.text_size, vocabulary.image_size))
            expected = visual if modality == VISUAL else text
            torch.testing.assert_close(logits[number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modality", [TEXT, VISUAL])
def test_a_router_that_sees_the_text_sees_it_from_the_cache(vocabulary: Vocabulary, modality: int) -> None:
    """A document of text, image, text, image: blocks that begin, go on and are replaced, token by token."""
    config = replace(CONFIG, experts=ExpertsConfig(visual=4), router=RouterConfig(condition="text"))
    (model,) = build_model(config, ProcessGroupCollection.use_mpu_process_groups())
    draw_routers(model)
    boi, code = vocabulary.boi, vocabulary.text_size
    texts, image = ([3, 4, 5, 6, 7], [8, 9, 2, 1, 11]), [boi, code, code + 1, code + 2]
    samples = [[*text, *image, *text[::-1], *image] for text in texts]
    samples.append(samples[0])  # the batch must not hold copies of one sample only
    whole = whole_forward(model, vocabulary, samples)
    first = 2 if modality == TEXT else 7  # what is given at once: part of a block of text, or of an image
    cache = KVCache(len(samples), len(samples[0]))
    steps = [[sample[:first] for sample in samples]]
    steps += [[[token] for token in column] for column in list(zip(*samples, strict=True))[first:]]
    got = []
    with inference(model):
        for step in steps:
            batch = pack_samples(step, vocabulary)
            got.append(model(batch, cache, return_logits=True))
            cache.advance(sample_lengths(batch.plan))
    for number, logits in enumerate(whole):
        assert not torch.equal(*whole[:2])
        torch.testing.assert_close(
            torch.stack([step[number] for step in got]), logits[first - 1 :], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", ["pipeline", "expert"])
def test_a_model_that_is_split_otherwise_is_refused(
    model: MARSModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(model.config, f"{name}_model_parallel_size", 2)
    with pytest.raises(ValueError, match=rf"parallel\.{name} is 2; accepted: 1"), inference(model):
        pass


def test_logits_depend_on_the_sample_alone(model: MARSModel, vocabulary: Vocabulary) -> None:
    samples = [[3, 4, vocabulary.boi], [7, vocabulary.boi, vocabulary.text_size]]
    together = whole_forward(model, vocabulary, samples)
    for sample, logits in zip(samples, together, strict=True):
        (alone,) = whole_forward(model, vocabulary, [sample])
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
    assert (together[0][-1] - together[1][-2]).abs().max() > 0.1, "prompts must matter for this to test anything"
