"""Rotary position embedding (Su et al., arXiv 2104.09864), half-rotation form as in Qwen and Llama."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mars_megatron.config.schema import RopeScalingConfig


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions.

    Args:
        head_dim: Size of one attention head; even.
        base: Base period.
        scaling: Stretching to longer contexts.
    """

    def __init__(self, head_dim: int, base: float, scaling: RopeScalingConfig) -> None:
        super().__init__()
        assert head_dim % 2 == 0, head_dim
        self.head_dim = head_dim
        self.base = base
        self.scaling = scaling

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians per position of each pair of features, fp32 [head_dim / 2]."""
        exponent = torch.arange(0, self.head_dim, 2, device=device, dtype=torch.float32) / self.head_dim
        # Rounded as in transformers: at position 4000 base ** -exponent would be off by 2e-4 from it.
        frequencies = 1.0 / self.base**exponent
        if self.scaling.type == "linear":
            return frequencies / self.scaling.factor
        if self.scaling.type == "llama3":
            return _llama3(frequencies, self.scaling)
        return frequencies

    def forward(self, positions: Tensor) -> Tensor:
        """Positions of any shape [...] (int64) -> [2, ..., 1, head_dim] fp32: cosines, then sines."""
        angles = positions.unsqueeze(-1).float() * self.frequencies(positions.device)  # [..., head_dim / 2]
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
        return torch.stack((angles.cos(), angles.sin()))


def _llama3(frequencies: Tensor, scaling: RopeScalingConfig) -> Tensor:
    """Llama 3.1's frequencies: each a mixture of the stretched and the original one, by its wavelength."""
    periods = scaling.original_context * frequencies / (2 * math.pi)  # in the original context
    kept = (periods - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(frequencies / scaling.factor, frequencies, kept.clamp(0.0, 1.0))


def apply_rotary(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate queries or keys.

    Args:
        x: [..., heads, head_dim].
        rotary: [2, ..., 1, head_dim] of `RotaryEmbedding`.
    """
    cos, sin = rotary.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
