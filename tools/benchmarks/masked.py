"""SemVIE by boolean masks: sequence order throughout, every layer picks and puts back the tokens of each expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sequence import SequenceParams
from mars_megatron.model.attention import apply_rotary
from mars_megatron.model.experts import Experts
from mars_megatron.model.layer import SemVIELayer
from mars_megatron.model.mars import MARSModel
from mars_megatron.sequence import combine
from mars_megatron.sequence.batch import Batch

Masks = tuple[Tensor, Tensor]
"""bool [tokens] each: is text, is visual."""


class MaskedMARS(MARSModel):
    """The parameters of a `MARSModel`, and the same losses; tokens are routed by boolean indexing.

    Nothing is detached: autograd runs through the text tokens whatever is frozen. One rank, shared norms, and a
    projection per expert.
    """

    def forward(self, batch: Batch, cache: Any = None, return_logits: bool = False, only: int | None = None) -> Tensor:
        """fp32 losses [n] of `batch.loss_rows`."""
        assert cache is None and not return_logits and only is None, "for training only"
        plan = batch.plan
        params = SequenceParams.from_plan(plan, self.rotary)
        is_visual = plan.sequence_to_sorted >= plan.padded_text
        masks = (~is_visual, is_visual)
        embedding = self.embedding
        hidden = _routed(embedding.text, embedding.visual, combine(batch.input_ids, plan), masks).unsqueeze(1)
        for layer in self.decoder.layers:
            hidden = _layer(layer, hidden, masks, params)
        wanted = self.final_norm.shared(hidden).index_select(0, plan.sorted_to_sequence[batch.loss_rows])
        return self.head.losses(wanted, batch.targets, batch.num_text_targets)


def _layer(layer: SemVIELayer, hidden: Tensor, masks: Masks, params: SequenceParams) -> Tensor:
    """[tokens, 1, hidden] -> the same."""
    attention = layer.attention
    qkv = _experts(attention.linear_qkv, layer.input_norm.shared(hidden), masks)
    if attention.qk_norm is not None:
        qkv = _experts(attention.qk_norm, qkv, masks)
    query, key, value = attention.heads.split(params.to_samples(qkv.squeeze(1)))
    assert params.rotary is not None
    query, key = apply_rotary(query, params.rotary), apply_rotary(key, params.rotary)
    out: Any = attention.core_attention(query, key, value, None, None)  # type: ignore[arg-type]
    hidden = hidden + _experts(attention.linear_proj, params.from_samples(out).unsqueeze(1), masks)
    return hidden + _experts(layer.mlp, layer.pre_mlp_norm.shared(hidden), masks)


def _experts(experts: Experts, x: Tensor, masks: Masks) -> Tensor:
    return _routed(experts.text, experts.visual, x, masks)


def _routed(text: nn.Module, visual: nn.Module, x: Tensor, masks: Masks) -> Tensor:
    """Each token's output of the expert of its modality, in the order of x [tokens, ...]."""
    is_text, is_visual = masks
    text_out, visual_out = _output(text(x[is_text])), _output(visual(x[is_visual]))
    out = torch.empty((len(x), *text_out.shape[1:]), dtype=text_out.dtype, device=x.device)
    out[is_text] = text_out
    out[is_visual] = visual_out
    return out


def _output(result: Tensor | tuple[Tensor, Any]) -> Tensor:
    """Linears and FFNs of megatron-core return their bias beside the output."""
    return result[0] if isinstance(result, tuple) else result
