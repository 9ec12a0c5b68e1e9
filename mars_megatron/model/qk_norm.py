"""Query, key and value heads in the fused projection, and their normalisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.model.norm import RMSNorm


class HeadLayout(NamedTuple):
    """How one rank's features of the fused projection are laid out, as megatron-core has it.

    For each group its query heads, then its key, then its value.

    Attributes:
        num_groups: Key/value heads of this rank.
        heads_per_group: Query heads that share one of them.
        head_dim: Size of a head.
    """

    num_groups: int
    heads_per_group: int
    head_dim: int

    @classmethod
    def of_rank(cls, config: TransformerConfig, tensor_parallel: int) -> HeadLayout:
        """The layout on each of `tensor_parallel` ranks."""
        groups = config.num_query_groups
        assert groups is not None and config.kv_channels is not None
        return cls(groups // tensor_parallel, config.num_attention_heads // groups, config.kv_channels)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., features] -> query [..., heads, d], key and value [..., groups, d]."""
        query, key, value = self.by_group(qkv)
        return query.flatten(-3, -2), key.squeeze(-2), value.squeeze(-2)

    def by_group(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., features] -> query [..., groups, heads per group, d], key and value [..., groups, 1, d]; views."""
        by_group = qkv.unflatten(-1, (self.num_groups, self.heads_per_group + 2, self.head_dim))
        query, key, value = by_group.split((self.heads_per_group, 1, 1), dim=-2)
        return query, key, value


class QKNorm(nn.Module):
    """RMSNorm of each query and each key head; one weight for all query heads, one for all key heads (Qwen3).

    Every tensor-parallel rank normalises its own heads, so the gradients of the weights must be summed over the ranks,
    with and without sequence parallelism: megatron-core does it for parameters of these names.

    Args:
        config: Gives epsilon, dtype and device.
        heads: The heads of this rank.
    """

    def __init__(self, config: TransformerConfig, heads: HeadLayout) -> None:
        super().__init__()
        self.heads = heads
        self.q_layernorm = RMSNorm(config, heads.head_dim, config.layernorm_epsilon)
        self.k_layernorm = RMSNorm(config, heads.head_dim, config.layernorm_epsilon)

    def forward(self, qkv: Tensor) -> Tensor:
        """[..., local qkv features] -> the same, values as they were."""
        query, key, value = self.heads.by_group(qkv)
        return torch.cat((self.q_layernorm(query), self.k_layernorm(key), value), dim=-2).flatten(-3)
