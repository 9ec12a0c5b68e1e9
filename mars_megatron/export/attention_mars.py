"""Attention of a MARS model: projections by modality under one shared causal attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache

from mars_megatron.export.configuration_mars import MarsConfig
from mars_megatron.export.routing_mars import MarsRMSNorm, Routing


def rotary_frequencies(config: MarsConfig, device: torch.device) -> Tensor:
    """Angle per position of each pair of features, fp32 [head_dim / 2]."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    frequencies = 1.0 / config.rope_base**exponent
    if config.rope_type == "none":
        return frequencies
    scaled = frequencies / config.rope_factor
    if config.rope_type == "linear":
        return scaled
    # Llama 3.1: short wavelengths are kept, long ones scaled, those between interpolated.
    periods = config.rope_original_context * frequencies / (2 * math.pi)  # in the original context
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    kept = ((periods - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * scaled


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys [samples, length, heads, head_dim] by cosines and sines [samples, length, 1, head_dim]."""
    cosines, sines = (part.to(x.dtype) for part in rotary)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class MarsProjections(nn.Module):
    """Attention projections of one modality."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query, group = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, group, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, group, bias=config.qkv_bias)
        if config.expert_output_projection:
            self.o_proj = nn.Linear(query, config.hidden_size, bias=False)
        self.has_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = MarsRMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = MarsRMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, hidden] -> queries, keys and values [rows, heads + 2 groups, head_dim]."""
        query, key, value = (
            projection(rows).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.has_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        return torch.cat((query, key, value), dim=1)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, None]:
    """torch's fused attention, which tells no weights."""
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and query.shape[2] == key.shape[2] and query.shape[2] > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out, None


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same step by step, with the weights [samples, heads, length, past + length]."""
    length, width = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(length, width, dtype=torch.bool, device=query.device).tril(width - length)
    per_group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(per_group, 1), value.repeat_interleave(per_group, 1)
    scores = query @ key.transpose(2, 3) / math.sqrt(key.shape[-1])
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
    return weights @ value, weights


# From queries [samples, heads, length, head_dim], keys and values [samples, groups, past + length, head_dim] and the
# mask of `attention_pattern` to outputs like the queries, and weights where there are any.
ATTENTIONS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {"eager": _eager, "sdpa": _sdpa}


def check_attention(name: str | None) -> str:
    """The attention of that name in ATTENTIONS, the usual one for None.

    Raises:
        ValueError: There is none.
    """
    if name is not None and name not in ATTENTIONS:
        raise ValueError(f"attn_implementation is {name!r}; accepted: {', '.join(ATTENTIONS)}")
    return name or "sdpa"


class MarsAttention(nn.Module):
    """Projections by modality around one causal attention over the joint sequence."""

    def __init__(self, config: MarsConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.text, self.visual = MarsProjections(config), MarsProjections(config)
        self.is_shared = not config.expert_output_projection
        if self.is_shared:
            self.o_proj = nn.Linear(self.heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        rows: Tensor,
        routing: Routing,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        implementation: str,
        cache: Cache | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sorted rows [rows, hidden] -> the same, and the weights [samples, heads, length, past + length] of eager.

        The mask is that of `attention_pattern`, the implementation one of ATTENTIONS.
        """
        tokens = routing.restore(routing.apply(self.text, self.visual, rows))
        query, key, value = tokens.split((self.heads, self.groups, self.groups), dim=2)
        query, key, value = (x.transpose(1, 2) for x in (rotate(query, rotary), rotate(key, rotary), value))
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        out, weights = ATTENTIONS[implementation](query, key, value, mask)
        out = routing.sort(out.transpose(1, 2).flatten(2))
        if self.is_shared:
            return self.o_proj(out), weights
        return routing.apply(self.text.o_proj, self.visual.o_proj, out), weights


def attention_pattern(real: Tensor | None, length: int, past: int, device: torch.device) -> Tensor | None:
    """What each new token may look at: bool [samples or 1, 1, length, past + length]; None where causality says it.

    Args:
        real: bool [samples, past + length]: tokens that are not padding; None without padding.
        length: New tokens.
        past: Tokens in the cache.
        device: Where the mask is needed.
    """
    if real is None and (past == 0 or length == 1):
        return None
    queries = torch.arange(past, past + length, device=device)[:, None]
    keys = torch.arange(past + length, device=device)
    causal = (keys <= queries)[None, None]
    if real is None:
        return causal
    # Padding looks at itself: a softmax over nothing has no value.
    return (causal & real[:, None, None]) | (keys == queries)
