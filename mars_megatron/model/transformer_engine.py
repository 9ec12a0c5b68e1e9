"""The Transformer Engine backend: its linears, and its variable-length attention. GPUs only."""

from __future__ import annotations

import math

from megatron.core.extensions.transformer_engine import HAVE_TE, TEDotProductAttention
from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.model.experts import RoutedSeqParams
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.sequence import DispatchPlan, combine, dispatch


class PackedAttention(nn.Module):
    """Transformer Engine's variable-length attention over the packed sequence [tokens, ...]."""

    def __init__(self, config: TransformerConfig, layer_number: int) -> None:
        super().__init__()
        self.attention = TEDotProductAttention(
            config=config,
            layer_number=layer_number,
            attn_mask_type=AttnMaskType.padding_causal,
            attention_type="self",
            softmax_scale=1.0 / math.sqrt(config.kv_channels),
        )

    def arrange(self, rows: Tensor, plan: DispatchPlan) -> Tensor:
        """[rows, features] -> [tokens, features]."""
        return combine(rows, plan)

    def restore(self, tokens: Tensor, plan: DispatchPlan) -> Tensor:
        """[tokens, features] -> [rows, features]."""
        return dispatch(tokens, plan)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, params: RoutedSeqParams, cache: KVCache | None
    ) -> Tensor:
        """query [tokens, heads, head_dim] -> [tokens, heads * head_dim]."""
        if cache is not None:
            raise ValueError("decoding with a KV cache needs training.backend=local")
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=params.cu_seqlens_q,
            cu_seqlens_kv=params.cu_seqlens_kv,
            max_seqlen_q=params.max_seqlen_q,
            max_seqlen_kv=params.max_seqlen_kv,
        )
        out = self.attention(
            query, key, value, None, attn_mask_type=AttnMaskType.padding_causal, packed_seq_params=packed
        )
        return out.reshape(out.shape[0], -1)


class TransformerEngineBackend:
    """Transformer Engine's linears and attention.

    Raises:
        ValueError: if Transformer Engine is not installed.
    """

    def __init__(self) -> None:
        if not HAVE_TE:
            raise ValueError(
                "training.backend=transformer_engine, but Transformer Engine is not installed; "
                "use training.backend=local or install transformer-engine"
            )
        self.linears: BackendSpecProvider = TESpecProvider()

    def core_attention(self, config: TransformerConfig, layer_number: int) -> PackedAttention:
        """See `Backend`."""
        return PackedAttention(config, layer_number)

    def positions(self, plan: DispatchPlan, cache: KVCache | None) -> Tensor:
        """int64 [tokens]."""
        return combine(plan.position_ids, plan)
