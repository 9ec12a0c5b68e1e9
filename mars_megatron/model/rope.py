"""Rotary position embedding (Su et al., arXiv 2104.09864), half-rotation form as in Qwen and Llama."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions.

    Args:
        head_dim: Size of one attention head; even.
        base: Base period.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        assert head_dim % 2 == 0, head_dim
        self.head_dim = head_dim
        self.base = base

    def forward(self, positions: Tensor) -> Tensor:
        """Positions of any shape [...] (int64) -> [2, ..., 1, head_dim] fp32: cosines, then sines."""
        exponent = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        angles = positions.unsqueeze(-1).float() * self.base**-exponent  # [..., head_dim / 2]
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
        return torch.stack((angles.cos(), angles.sin()))


def apply_rotary(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate queries or keys.

    Args:
        x: [..., heads, head_dim].
        rotary: [2, ..., 1, head_dim] of `RotaryEmbedding`.
    """
    cos, sin = rotary.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
