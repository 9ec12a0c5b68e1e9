"""The exported model computes what the trained one does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY
from tests.support.exported import padded, reference_logits, tiny_pair
from tests.support.tiny import make_samples

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one group": {"model.num_query_groups": 1, "model.qkv_bias": "false"},
    "all groups": {"model.num_query_groups": 4, "model.head_dim": 6},
    "expert norms": {"model.expert_norms": "true"},
    "shared projection": {"model.expert_output_projection": "false"},
    "four visual experts": {"experts.visual": 4},
    "top 2": {"experts.visual": 4, "router.top_k": 2},
    "text experts": {"experts.text": 2},
    "both, top 2": {"experts.text": 2, "experts.visual": 4, "router.top_k": 2},
    "conditioned": {"experts.visual": 4, "router.condition": "text"},
    "stage III": {"image.low_resolution": 8, "image.next_k": 4, "image.order": "regions"},
    "qk norm": {"model.qk_norm": "true", "model.qkv_bias": "false", "model.head_dim": 6},
    "linear rope": {"model.head_dim": 16, "model.rope_scaling.type": "linear", "model.rope_scaling.factor": 4.0},
    "llama3 rope": {  # with wavelengths that are kept, scaled, and between
        "model.head_dim": 16,
        "model.rope_scaling.type": "llama3",
        "model.rope_scaling.factor": 8.0,
        "model.rope_scaling.original_context": 64,
    },
}


def samples_of(tasks: list[int]) -> list[list[int]]:
    return [ids.tolist() for ids, _, _ in make_samples(tasks)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_trained_models(variant: str) -> None:
    model, exported = tiny_pair(VARIANTS[variant])
    samples = samples_of([TEXT_ONLY, T2I, I2T, TEXT_ONLY, I2T, T2I])
    samples.append([*samples[1], *samples[2], *samples[1]])  # text and images in turn
    samples.append([*samples[2], *model.vocabulary.start_slots, *samples[1]])
    expected = reference_logits(model, samples)
    assert torch.cat(expected).std() > 0.5, "logits must differ for this to test anything"
    for side in ("right", "left"):
        ids, mask = padded(samples, side)
        with torch.no_grad():
            logits = exported(ids, attention_mask=mask).logits
        for number, want in enumerate(expected):
            torch.testing.assert_close(logits[number, mask[number].bool()], want, rtol=2e-5, atol=2e-5)
