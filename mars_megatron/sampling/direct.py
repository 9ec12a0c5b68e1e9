"""Decoding on one rank: the model's function on its own parameters, without what that does not need.

A step of a few rows costs less to compute than to organise. Here there is nobody to exchange anything with and nothing
to differentiate, and a step of one modality has nothing to sort and no rows for the other modality's experts.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn

from mars_megatron.compat.pytorch import has_hooks
from mars_megatron.model.attention import HeadLayout, QKNorm, RotaryEmbedding, SemVIEAttention
from mars_megatron.model.backends import LocalBackend, SampleAttention
from mars_megatron.model.experts import Experts, RMSNorm
from mars_megatron.model.feed_forward import FeedForward
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.model.layer import SemVIELayer
from mars_megatron.model.mars import MARSModel
from mars_megatron.model.vocabulary_parallel import JoinedEmbedding, JoinedHead
from mars_megatron.sequence import TEXT, VISUAL, DispatchPlan, from_samples, to_samples
from mars_megatron.sequence.batch import Batch

_LINEARS = (ColumnParallelLinear, RowParallelLinear)
# The modules whose forward passes are known here, with the names of their methods.
_KNOWN = {
    kind: frozenset(name for name, _ in inspect.getmembers(kind, inspect.isfunction))
    for kind in (
        *(MARSModel, TransformerBlock, nn.ModuleList, SemVIELayer, Experts, RMSNorm, *_LINEARS),
        *(SemVIEAttention, SampleAttention, QKNorm, RotaryEmbedding, FeedForward, MLP),
        *(JoinedEmbedding, VocabParallelEmbedding, JoinedHead),
    )
}

Pair = tuple[Any, Any]  # the text module and the visual one; the same where one serves both


class _Layer(NamedTuple):
    """Modules of a layer."""

    number: int  # under which the cache knows it
    input_norm: Pair
    qkv: Pair
    qk_norm: Pair | None
    projection: Pair
    mlp_norm: Pair
    gate_up: Pair
    down: Pair


class _Mixed:
    """Rows of both modalities, sorted.

    Args:
        plan: Their plan.
    """

    def __init__(self, plan: DispatchPlan) -> None:
        self.plan = plan

    def apply(self, modules: Pair, rows: Tensor) -> Tensor:
        """Each module on its rows."""
        if modules[TEXT] is modules[VISUAL]:
            return _call(modules[TEXT], rows)
        parts = zip(modules, rows.split(self.plan.expert_splits), strict=True)
        return torch.cat([_call(module, part) for module, part in parts])

    def to_samples(self, rows: Tensor) -> Tensor:
        """[rows, features] -> [samples, longest, features]."""
        return to_samples(rows, self.plan)

    def from_samples(self, tokens: Tensor) -> Tensor:
        """The inverse."""
        return from_samples(tokens, self.plan)


class _Uniform:
    """Rows of one modality, as many for each sample.

    Args:
        modality: TEXT or VISUAL.
        num_samples: Samples.
    """

    def __init__(self, modality: int, num_samples: int) -> None:
        self.modality, self.num_samples = modality, num_samples

    def apply(self, modules: Pair, rows: Tensor) -> Tensor:
        """The module of the modality on all rows."""
        return _call(modules[self.modality], rows)

    def to_samples(self, rows: Tensor) -> Tensor:
        """[samples * new, features] -> [samples, new, features]."""
        return rows.view(self.num_samples, -1, rows.shape[-1])

    def from_samples(self, tokens: Tensor) -> Tensor:
        """The inverse."""
        return tokens.flatten(0, 1)


class DirectDecoding:
    """Forward passes with a cache, without autograd: those of `MARSModel.forward`, which serves all other models.

    Args:
        model: One that `serves` says yes to.
        max_length: Most tokens of a sample.
    """

    def __init__(self, model: MARSModel, max_length: int) -> None:
        self.model = model
        self.tables = (model.embedding.text.weight, model.embedding.visual.weight)
        self.norm = _pair(model.final_norm)
        self.layers = [_modules(layer) for layer in model.decoder.layers]
        self.heads: HeadLayout = model.decoder.layers[0].attention.heads
        self.cosines, self.sines = _rotary_tables(model, self.heads, max_length, self.tables[VISUAL])

    @staticmethod
    def serves(model: MARSModel) -> bool:
        """Whether it is one rank's, with torch's linears and a single FFN expert for each modality.

        All of it must be what was built: a module of another class (a wrapper, an adapter, a quantised linear, several
        experts behind a router), a hook, a method set on a module itself or a parameter of another type could change
        what the model computes, and the model's own forward then serves.
        """
        return (
            model.tp_group.size() == 1
            and type(model.backend) is LocalBackend
            and all(_is_as_built(module) for module in model.modules())
        )

    def forward(self, batch: Batch, cache: KVCache, only: int | None = None) -> Tensor:
        """What the model's own forward returns for these arguments: logits of `batch.loss_rows`."""
        ids = zip(batch.input_ids.split(batch.plan.expert_splits), self.tables, strict=True)
        rows = torch.cat([F.embedding(part, table) for part, table in ids])
        rows = self._run(rows, _Mixed(batch.plan), batch.plan.max_seqlen, cache)
        return self.model.head.logits(rows.index_select(0, batch.loss_rows).unsqueeze(1), only)

    def step(self, ids: Tensor, modality: int, cache: KVCache, only: int | None = None) -> Tensor:
        """Read new tokens that are all of one modality; the caller advances the cache.

        Args:
            ids: int64 joined [samples * new], those of the first sample first.
            modality: TEXT or VISUAL.
            cache: Keys and values of earlier tokens.
            only: Modality whose ids' logits are wanted; None for those of both.

        Returns:
            fp32 logits [samples * new, ids].
        """
        offset = 0 if modality == TEXT else self.model.vocabulary.text_size
        rows = F.embedding(ids - offset, self.tables[modality])
        layout = _Uniform(modality, cache.num_samples)
        rows = self._run(rows, layout, len(ids) // cache.num_samples, cache)
        return self.model.head.logits(rows.unsqueeze(1), only)

    def _run(self, rows: Tensor, layout: _Mixed | _Uniform, new: int, cache: KVCache) -> Tensor:
        """Embedded rows [rows, hidden] -> normalised ones behind the last layer; `new` tokens in the longest sample."""
        places = cache.places(new, rows)
        at = slice(places.first, places.end) if places.first is not None else places.positions
        rotary = self.cosines[at], self.sines[at]
        for layer in self.layers:
            qkv = layout.apply(layer.qkv, layout.apply(layer.input_norm, rows))
            if layer.qk_norm is not None:
                qkv = layout.apply(layer.qk_norm, qkv)
            out = layout.from_samples(self._attend(layout.to_samples(qkv), layer.number, rotary, cache))
            rows = rows + layout.apply(layer.projection, out)
            gate, up = layout.apply(layer.gate_up, layout.apply(layer.mlp_norm, rows)).chunk(2, dim=-1)
            rows = rows + layout.apply(layer.down, F.silu(gate) * up)
        return layout.apply(self.norm, rows)

    def _attend(self, qkv: Tensor, number: int, rotary: tuple[Tensor, Tensor], cache: KVCache) -> Tensor:
        """Queries, keys and values [samples, new, features] -> [samples, new, heads * d]."""
        groups, per_group, head_dim = self.heads
        cosines, sines = rotary
        heads = qkv.unflatten(-1, (groups, per_group + 2, head_dim))
        heads = torch.addcmul(heads * cosines, heads.roll(head_dim // 2, dims=-1), sines)
        everything = cache.write(number, heads[..., -2:, :])
        out = F.scaled_dot_product_attention(
            heads[..., :-2, :].flatten(2, 3).transpose(1, 2),
            everything[:, :, 0],
            everything[:, :, 1],
            attn_mask=cache.places(heads.shape[1], heads).mask,
            is_causal=cache.is_empty,
            enable_gqa=per_group > 1,
        )
        return out.transpose(1, 2).flatten(-2)


def _is_as_built(module: nn.Module) -> bool:
    """Whether a module computes what its class, a known one, says."""
    activations = (getattr(owner, "activation_func", F.silu) for owner in (module, getattr(module, "config", None)))
    return (
        type(module) in _KNOWN
        and not has_hooks(module)
        and _KNOWN[type(module)].isdisjoint(vars(module))
        and all(type(parameter) is nn.Parameter for parameter in module.parameters(recurse=False))
        and all(activation is F.silu for activation in activations)
    )


def _call(module: nn.Module, rows: Tensor) -> Tensor:
    """What the module computes, if it is a linear or, in fp32, which it computes in, a norm: by one operator."""
    if type(module) in _LINEARS:
        return F.linear(rows, module.weight, module.bias)  # type: ignore[arg-type]
    if type(module) is RMSNorm and rows.dtype is torch.float32:
        return F.rms_norm(rows, module.weight.shape, module.weight, module.eps)
    return module(rows)


def _pair(experts: Any) -> Pair:
    return experts.of(TEXT), experts.of(VISUAL)


def _modules(layer: Any) -> _Layer:
    attention, ffn = layer.attention, _pair(layer.mlp)
    return _Layer(
        number=attention.core_attention.layer_number,
        input_norm=_pair(layer.input_norm),
        qkv=_pair(attention.linear_qkv),
        qk_norm=_pair(attention.qk_norm) if attention.qk_norm is not None else None,
        projection=_pair(attention.linear_proj),
        mlp_norm=_pair(layer.pre_mlp_norm),
        gate_up=(ffn[TEXT].linear_fc1, ffn[VISUAL].linear_fc1),
        down=(ffn[TEXT].linear_fc2, ffn[VISUAL].linear_fc2),
    )


def _rotary_tables(model: MARSModel, heads: HeadLayout, max_length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of a head itself and of its halves exchanged, by position: [positions, 1, heads per group + 2, d].

    The value, which is not rotated, stands behind queries and key with the factors 1 and 0: one product for all three.
    """
    rotary = model.rotary(torch.arange(max_length, device=like.device)).to(like.dtype)  # [2, positions, 1, d]
    cosines, sines = rotary.repeat(1, 1, heads.heads_per_group + 2, 1)
    sines[..., : heads.head_dim // 2] *= -1
    cosines[:, -1], sines[:, -1] = 1, 0
    return cosines.unsqueeze(1), sines.unsqueeze(1)
