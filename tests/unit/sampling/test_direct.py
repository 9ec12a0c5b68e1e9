"""Decoding on one rank is the model's own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mars_megatron.model import KVCache, MARSModel
from mars_megatron.sampling.batches import DecodeStep, pack_samples, sample_lengths
from mars_megatron.sampling.decoding import inference
from mars_megatron.sampling.direct import DirectDecoding
from mars_megatron.sequence import TEXT, VISUAL
from tests.support.tiny import VOCABULARY, randomize, tiny_model

BOI, CODE, EOI = VOCABULARY.boi, VOCABULARY.text_size, VOCABULARY.eoi
RAGGED = [[3, 4, 5, BOI], [BOI, CODE + 1, EOI, 7], [9, BOI, CODE + 2, CODE, EOI, 8, 2]]
ALIKE = [[3, 4, BOI], [BOI, CODE, 7]]
ONLY_IMAGES = [[BOI], [BOI]]


def steps(number: int) -> list[tuple[list[int], int]]:
    """(joined ids, new tokens of each sample): visual, three visual, text, and of both modalities."""
    visual = [CODE + n for n in range(number)]
    return [
        (visual, 1),
        ([CODE + n % 13 for n in range(3 * number)], 3),
        ([5 + n for n in range(number)], 1),
        ([CODE + 3 if n % 2 else 6 for n in range(number)], 1),
        (visual[::-1], 1),
    ]


def modality_of(token: int) -> int:
    return VISUAL if token >= CODE else TEXT


def by_model(model: MARSModel, samples: list[list[int]]) -> list[torch.Tensor]:
    """Logits of the beginnings and of every step, by `MARSModel.forward`."""
    cache, prompt = KVCache(len(samples), 20), pack_samples(samples, VOCABULARY)
    found = [model(prompt, cache, return_logits=True)]
    cache.advance(sample_lengths(prompt.plan))
    for ids, new in steps(len(samples)):
        parts = [ids[start : start + new] for start in range(0, len(ids), new)]
        batch = pack_samples(parts, VOCABULARY, num_last=new)
        found.append(model(batch, cache, return_logits=True))
        cache.advance(sample_lengths(batch.plan))
    return found


def directly(model: MARSModel, samples: list[list[int]]) -> list[torch.Tensor]:
    """The same by `DirectDecoding`."""
    direct = DirectDecoding(model, 20)
    cache, prompt = KVCache(len(samples), 20), pack_samples(samples, VOCABULARY)
    found = [direct.forward(prompt, cache)]
    cache.advance(sample_lengths(prompt.plan))
    for ids, new in steps(len(samples)):
        modalities = [modality_of(token) for token in ids]
        if len(set(modalities)) == 1:
            found.append(direct.step(torch.tensor(ids), modalities[0], cache))
        else:
            found.append(direct.forward(DecodeStep.mixed(modalities, VOCABULARY).batch(torch.tensor(ids)), cache))
        cache.advance(torch.full((len(samples),), new))
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "qwen2": {"model.qkv_bias": True, "model.num_query_groups": 4},
    "qwen3": {"model.qk_norm": True, "model.head_dim": 8},
    "llama": {"model.qkv_bias": False, "model.rope_scaling.type": "linear", "model.rope_scaling.factor": 2.0},
    "apart": {"model.expert_norms": True, "model.expert_output_projection": False},
    "shared": {"model.shared_experts": True, "freeze.text": False},
    "bf16": {"training.precision": "bf16"},
}


@pytest.mark.parametrize("samples", [RAGGED, ALIKE, ONLY_IMAGES], ids=["ragged", "alike", "only_images"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_logits_are_those_of_the_model(variant: str, samples: list[list[int]]) -> None:
    model = randomize(tiny_model(VARIANTS[variant]))
    assert DirectDecoding.serves(model)
    with inference(model):
        expected, found = by_model(model, samples), directly(model, samples)
    tolerance = 0.1 if variant == "bf16" else 1e-5
    for step, (want, got) in enumerate(zip(expected, found, strict=True)):
        assert want.shape == got.shape and want.dtype == got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, msg=lambda text, at=step: f"{at}: {text}")
    assert (expected[1][0] - expected[1][1]).abs().max() > 0.1, "samples must differ for this to test anything"


def test_only_one_modality_is_scored_where_asked() -> None:
    model = randomize(tiny_model())
    direct, prompt = DirectDecoding(model, 20), pack_samples(RAGGED, VOCABULARY)
    with inference(model):
        whole = direct.forward(prompt, KVCache(3, 20))
        for modality, columns in ((TEXT, slice(0, CODE)), (VISUAL, slice(CODE, None))):
            torch.testing.assert_close(direct.forward(prompt, KVCache(3, 20), modality), whole[:, columns])
            of_model = model(prompt, KVCache(3, 20), return_logits=True, only=modality)
            torch.testing.assert_close(of_model, whole[:, columns], rtol=1e-5, atol=1e-5)


def test_several_experts_are_left_to_the_model() -> None:
    assert not DirectDecoding.serves(tiny_model({"experts.visual": 4}))
