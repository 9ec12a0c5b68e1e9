"""Frequencies are those of transformers, and of the published formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mars_megatron.config.schema import RopeScalingConfig
from mars_megatron.model.attention import RotaryEmbedding

CPU = torch.device("cpu")
LLAMA_31 = RopeScalingConfig(type="llama3", factor=8.0, original_context=8192)
LLAMA_32 = RopeScalingConfig(type="llama3", factor=32.0, original_context=8192)
OTHER = RopeScalingConfig(type="llama3", factor=3.0, low_freq_factor=2.0, high_freq_factor=16.0, original_context=4096)
LINEAR = RopeScalingConfig(type="linear", factor=4.0)


def llama(head_dim: int, base: float, scaling: RopeScalingConfig) -> LlamaConfig:
    parameters: dict[str, Any] = {"rope_theta": base, "rope_type": "default"}
    if scaling.type != "none":
        parameters |= {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type == "llama3":
        parameters |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=131072, rope_parameters=parameters
    )


def frequencies(head_dim: int, base: float, scaling: RopeScalingConfig) -> Tensor:
    return RotaryEmbedding(head_dim, base, scaling).frequencies(CPU)


@pytest.mark.parametrize(("head_dim", "base"), [(128, 500000.0), (64, 500000.0), (16, 10000.0)])
@pytest.mark.parametrize("scaling", [LLAMA_31, LLAMA_32, OTHER, LINEAR])
def test_scaled_frequencies_equal_those_of_transformers(head_dim: int, base: float, scaling: RopeScalingConfig) -> None:
    expected, factor = ROPE_INIT_FUNCTIONS[scaling.type](llama(head_dim, base, scaling), CPU)
    assert factor == 1.0
    torch.testing.assert_close(frequencies(head_dim, base, scaling), expected, rtol=1e-6, atol=0.0)


def test_llama_keeps_the_high_frequencies_and_stretches_the_low_ones() -> None:
    plain, scaled = (frequencies(128, 500000.0, scaling) for scaling in (RopeScalingConfig(), LLAMA_31))
    wavelengths = 2 * math.pi / plain
    high, low = wavelengths < 8192 / 4, wavelengths > 8192
    between = ~high & ~low
    assert min(int(high.sum()), int(low.sum()), int(between.sum())) > 3
    assert torch.equal(scaled[high], plain[high])
    torch.testing.assert_close(scaled[low], plain[low] / 8, rtol=1e-6, atol=0.0)
    ratio = plain[between] / scaled[between]
    assert (ratio > 1).all() and (ratio < 8).all() and (ratio.diff() > 0).all()


@pytest.mark.parametrize("base", [10000.0, 500000.0, 1e6])
@pytest.mark.parametrize("scaling", [RopeScalingConfig(), LINEAR, LLAMA_31], ids=["none", "linear", "llama3"])
def test_far_positions_turn_as_in_transformers(base: float, scaling: RopeScalingConfig) -> None:
    positions = torch.tensor([[0, 1, 500, 4000]])
    theirs = LlamaRotaryEmbedding(llama(128, base, scaling))(torch.zeros(1), positions)
    ours = RotaryEmbedding(128, base, scaling)(positions)
    assert ours.shape == (2, 1, 4, 1, 128)
    # A frequency that is rounded otherwise shows as 1e-4 at angles of thousands.
    torch.testing.assert_close(ours.squeeze(-2), torch.stack(theirs), rtol=0.0, atol=1e-5)
