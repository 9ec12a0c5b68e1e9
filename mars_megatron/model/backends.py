"""Which classes a SemVIE layer is built from: local (torch) or Transformer Engine."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from megatron.core.models.backends import BackendSpecProvider, LocalSpecProvider
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.model.experts import RoutedSeqParams
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.sequence import DispatchPlan, from_samples, to_samples


class CoreAttention(Protocol):
    """Causal attention inside each sample, in the token layout it likes best."""

    def arrange(self, rows: Tensor, plan: DispatchPlan) -> Tensor:
        """Sorted rows [rows, features] -> attention layout [..., features]."""

    def restore(self, tokens: Tensor, plan: DispatchPlan) -> Tensor:
        """Attention layout [..., features] -> sorted rows [rows, features]."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, params: RoutedSeqParams, cache: KVCache | None
    ) -> Tensor:
        """query [..., heads, head_dim], key and value [..., groups, head_dim] -> [..., heads * head_dim]."""


class Backend(Protocol):
    """What differs between the implementations of a layer."""

    linears: BackendSpecProvider

    def core_attention(self, config: TransformerConfig, layer_number: int) -> CoreAttention:
        """The attention module of one layer."""

    def positions(self, plan: DispatchPlan, cache: KVCache | None) -> Tensor:
        """int64 position of each token within its sample, in the attention layout (broadcastable to it)."""


class SampleAttention(nn.Module):
    """Attention over right-padded samples [samples, longest, ...] through torch's scaled_dot_product_attention.

    Padding needs no mask: it lies behind every real token of its sample, so causality hides it.
    """

    def __init__(self, config: TransformerConfig, layer_number: int) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.grouped = config.num_query_groups != config.num_attention_heads

    def arrange(self, rows: Tensor, plan: DispatchPlan) -> Tensor:
        """[rows, features] -> [samples, longest, features]."""
        return to_samples(rows, plan)

    def restore(self, tokens: Tensor, plan: DispatchPlan) -> Tensor:
        """[samples, longest, features] -> [rows, features]."""
        return from_samples(tokens, plan)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, params: RoutedSeqParams, cache: KVCache | None
    ) -> Tensor:
        """query [samples, longest, heads, head_dim] -> [samples, longest, heads * head_dim]."""
        mask, is_causal = None, True
        if cache is not None:
            all_key, all_value = cache.update(self.layer_number, key, value)
            if not cache.is_empty:
                key, value = all_key, all_value
                mask, is_causal = cache.places(query.shape[1], query).mask, False
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=is_causal,
            enable_gqa=self.grouped,
        )
        return out.transpose(1, 2).flatten(-2)


class LocalBackend:
    """megatron-core's torch linears and `SampleAttention`; runs on the CPU and on GPUs."""

    def __init__(self) -> None:
        self.linears: BackendSpecProvider = LocalSpecProvider()

    def core_attention(self, config: TransformerConfig, layer_number: int) -> CoreAttention:
        """See `Backend`."""
        return SampleAttention(config, layer_number)

    def positions(self, plan: DispatchPlan, cache: KVCache | None) -> Tensor:
        """int64 [1 or samples, longest]."""
        device = plan.position_ids.device
        positions = torch.arange(plan.max_seqlen, device=device)[None]
        return positions if cache is None else cache.start_positions(device)[:, None] + positions
