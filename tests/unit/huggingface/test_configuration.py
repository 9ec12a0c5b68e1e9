"""Configurations, and the random models made from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mars_megatron.huggingface.configuration_mars import MarsConfig
from mars_megatron.huggingface.modeling_mars import MarsForCausalLM


def test_initial_values() -> None:
    config = MarsConfig(visual_experts=2, router_condition="text", qk_norm=True, initializer_range=0.05)
    torch.manual_seed(0)
    state = MarsForCausalLM(config).state_dict()
    for name, value in state.items():
        if "norm" in name:
            assert bool((value == 1).all()), name
        elif name.endswith(("bias", "condition_weight")):
            assert not value.any(), name
        elif "router" in name:
            assert 0 < value.std() < 0.002, name
        else:
            assert abs(float(value.std()) - 0.05) < 0.01, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 3}, "vocab_size is 3"),
        ({"rope_type": "yarn"}, "rope_type is 'yarn'; accepted: none, linear, llama3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"num_text_ids": 513}, "num_text_ids is 513"),
        ({"image_next_k": 0}, "image_next_k is 0; accepted: 1 or more"),
        ({"image_resolution": 18}, "image_resolution is 18"),
        ({"image_generation": {"guidence": 1}}, "guidence"),
    ],
)
def test_configurations_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarsConfig(**values)
