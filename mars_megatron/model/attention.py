"""SemVIE attention: projections by modality under one shared causal attention, with rotary position embedding.

The embedding (Su et al., arXiv 2104.09864) has the half-rotation form of Qwen and Llama.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import checkpoint
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.config.schema import ModelConfig, RopeScalingConfig
from mars_megatron.model.backends import Backend, CoreAttention
from mars_megatron.model.experts import Experts, RMSNorm, RoutedSeqParams, Rows, mark, plan_of
from mars_megatron.model.kv_cache import KVCache


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
        self.q_layernorm = RMSNorm(config, heads.head_dim)
        self.k_layernorm = RMSNorm(config, heads.head_dim)

    def forward(self, qkv: Tensor) -> Tensor:
        """[..., local qkv features] -> the same, values as they were."""
        query, key, value = self.heads.by_group(qkv)
        return torch.cat((self.q_layernorm(query), self.k_layernorm(key), value), dim=-2).flatten(-3)


class SemVIEAttention(MegatronModule):
    """Text and visual query/key/value and output projections around one attention over the joint sequence.

    The rows stay sorted by expert outside; sequence order exists only between `arrange` and `restore`.

    Args:
        config: megatron-core configuration.
        model: Which projections the modalities share.
        backend: Linears and core attention.
        layer_number: Number of the layer on this rank, from 1.
        groups: Process groups.
    """

    def __init__(
        self,
        config: TransformerConfig,
        model: ModelConfig,
        backend: Backend,
        layer_number: int,
        groups: ProcessGroupCollection,
    ) -> None:
        super().__init__(config)
        self.heads = HeadLayout.of_rank(config, groups.tp.size())
        self.recompute_core = config.recompute_granularity == "selective"
        query_size = config.num_attention_heads * config.kv_channels
        group_size = config.num_query_groups * config.kv_channels

        def qkv() -> nn.Module:
            linear = backend.linears.column_parallel_linear()(
                config.hidden_size,
                query_size + 2 * group_size,
                config=config,
                init_method=config.init_method,
                gather_output=False,
                bias=model.qkv_bias,
                skip_bias_add=False,
                is_expert=False,
                tp_comm_buffer_name="qkv",
                tp_group=groups.tp,
            )
            if model.qkv_bias:
                mark(linear.bias, "zeros")
            return linear

        def projection() -> nn.Module:
            linear = backend.linears.row_parallel_linear()(
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
            mark(linear.weight, "output")
            return linear

        def norm() -> nn.Module:
            return QKNorm(config, self.heads)

        only = "text" if model.shared_experts else ""
        self.linear_qkv = Experts(config, qkv, groups.tp, only)
        self.qk_norm = Experts(config, norm, groups.tp, only) if model.qk_norm else None
        self.linear_proj = Experts(config, projection, groups.tp, only if model.expert_output_projection else "shared")
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
