"""SemVIE attention: projections by modality under one shared causal attention."""

from __future__ import annotations

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import checkpoint
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.model.backends import Backend, CoreAttention
from mars_megatron.model.experts import Experts, Rows
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.model.packed import RoutedSeqParams, plan_of
from mars_megatron.model.qk_norm import HeadLayout, QKNorm
from mars_megatron.model.rope import apply_rotary


class SemVIEAttention(MegatronModule):
    """Text and visual query/key/value and output projections around one attention over the joint sequence.

    The rows stay sorted by expert outside; sequence order exists only between `arrange` and `restore`.

    Args:
        config: megatron-core configuration.
        backend: Linears and core attention.
        layer_number: Number of the layer on this rank, from 1.
        groups: Process groups.
        shared_projection: One output projection for both modalities.
        visual_is_text: The text experts serve both modalities.
    """

    def __init__(
        self,
        config: TransformerConfig,
        backend: Backend,
        layer_number: int,
        groups: ProcessGroupCollection,
        shared_projection: bool,
        visual_is_text: bool = False,
    ) -> None:
        super().__init__(config)
        self.heads = HeadLayout.of_rank(config, groups.tp.size())
        self.recompute_core = config.recompute_granularity == "selective"
        query_size = config.num_attention_heads * config.kv_channels
        group_size = config.num_query_groups * config.kv_channels

        def qkv() -> nn.Module:
            return backend.linears.column_parallel_linear()(
                config.hidden_size,
                query_size + 2 * group_size,
                config=config,
                init_method=config.init_method,
                gather_output=False,
                bias=config.add_bias_linear or config.add_qkv_bias,
                skip_bias_add=False,
                is_expert=False,
                tp_comm_buffer_name="qkv",
                tp_group=groups.tp,
            )

        def projection() -> nn.Module:
            return backend.linears.row_parallel_linear()(
                query_size,
                config.hidden_size,
                config=config,
                init_method=config.output_layer_init_method,
                bias=config.add_bias_linear,
                input_is_parallel=True,
                skip_bias_add=True,
                is_expert=False,
                tp_comm_buffer_name="proj",
                tp_group=groups.tp,
            )

        def norm() -> nn.Module:
            return QKNorm(config, self.heads)

        one = visual_is_text
        self.linear_qkv = Experts(config, qkv, groups.tp, visual_is_text=one)
        self.qk_norm = Experts(config, norm, groups.tp, visual_is_text=one) if config.qk_layernorm else None
        self.linear_proj = Experts(
            config, projection, groups.tp, shared=shared_projection, visual_is_text=one and not shared_projection
        )
        # A module; annotated by what the layer asks of it.
        self.core_attention: CoreAttention = backend.core_attention(config, layer_number)

    def forward(self, rows: Rows, rotary: Tensor, params: RoutedSeqParams, cache: KVCache | None = None) -> Rows:
        """Attend over the whole micro-batch.

        Args:
            rows: Normalised residual rows, [local rows, 1, hidden] (local under sequence parallelism).
            rotary: [2, ..., 1, head_dim] in the attention layout.
            params: Carries the dispatch plan.
            cache: Keys and values of earlier tokens, when decoding.
        """
        plan = plan_of(params)
        parts = self.linear_qkv(rows)  # [all rows of each modality, 1, local qkv features]
        if self.qk_norm is not None:
            parts = self.qk_norm(parts)
        qkv = parts.joined().squeeze(1)

        def core(qkv: Tensor, rotary: Tensor) -> Tensor:
            query, key, value = self.heads.split(self.core_attention.arrange(qkv, plan))
            query, key = apply_rotary(query, rotary), apply_rotary(key, rotary)
            out = self.core_attention(query, key, value, params, cache)
            return self.core_attention.restore(out, plan)

        if self.recompute_core and self.training and torch.is_grad_enabled():
            out = checkpoint(core, False, qkv, rotary)
        else:
            out = core(qkv, rotary)
        text, visual = out.unsqueeze(1).split(plan.expert_splits)
        return self.linear_proj(rows.with_parts(text, visual))
