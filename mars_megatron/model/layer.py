"""One SemVIE layer, of the kind that megatron-core's TransformerBlock stacks."""

from __future__ import annotations

from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import BaseTransformerLayer, get_transformer_layer_offset
from torch import Tensor

from mars_megatron.config.schema import RunConfig
from mars_megatron.model.attention import SemVIEAttention
from mars_megatron.model.backends import Backend
from mars_megatron.model.experts import RoutedSeqParams, build_norm, plan_of, split_rows
from mars_megatron.model.feed_forward import FeedForward
from mars_megatron.sequence import DispatchPlan


def text_needs_grad(plan: DispatchPlan, text_is_frozen: bool) -> bool:
    """Whether anything trainable lies upstream of a text row.

    With frozen text experts and norms, only an image in front of a text token of the same sample can be.
    """
    return not text_is_frozen or plan.image_before_text


class SemVIELayer(MegatronModule, BaseTransformerLayer):
    """Pre-norm attention and SwiGLU FFN, each a pair of experts chosen by modality.

    Args:
        config: megatron-core configuration.
        layer_number: Number of the layer on this pipeline stage, from 1.
        pg_collection: Process groups.
        vp_stage: Model chunk of an interleaved pipeline.
        backend: Linears and core attention.
        run: The run: shared and separate parts, FFN experts, frozen parts.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int = 1,
        pg_collection: ProcessGroupCollection | None = None,
        vp_stage: int | None = None,
        *,
        backend: Backend,
        run: RunConfig,
    ) -> None:
        super().__init__(config=config)
        assert pg_collection is not None
        groups = pg_collection
        # TransformerBlock numbers checkpoint keys by the layer's number in the whole model.
        self.layer_number = layer_number + get_transformer_layer_offset(config, vp_stage, groups.pp.rank())
        self.tp_group = groups.tp
        self.text_is_frozen = run.text_is_frozen
        self.input_norm = build_norm(config, groups, run.model.expert_norms)
        self.attention = SemVIEAttention(config, run.model, backend, layer_number, groups)
        self.pre_mlp_norm = build_norm(config, groups, run.model.expert_norms)
        self.mlp = FeedForward(config, run, backend, layer_number, groups)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        context: Tensor | None = None,
        rotary_pos_emb: Tensor | None = None,
        inference_context: Any = None,
        packed_seq_params: RoutedSeqParams | None = None,
        **_unused_by_this_layer: Any,
    ) -> tuple[Tensor, None]:
        """[local rows, 1, hidden] sorted by expert -> the same, with the (absent) context that the block expects.

        TransformerBlock calls every kind of layer with the same keywords; those of cross-attention, masks and
        other position embeddings are always None here.

        Args:
            hidden_states: Residual rows, text first.
            rotary_pos_emb: [2, ..., 1, head_dim], see `RotaryEmbedding`.
            inference_context: The `KVCache` when decoding.
            packed_seq_params: Carries the dispatch plan.
        """
        assert attention_mask is None and context is None
        plan = plan_of(packed_seq_params)
        num_text, _ = plan.rank_splits(self.tp_group.size() if self.config.sequence_parallel else 1)
        rows = split_rows(hidden_states, num_text, text_needs_grad(plan, self.text_is_frozen))
        rows = rows.add(self.attention(self.input_norm(rows), rotary_pos_emb, packed_seq_params, inference_context))
        rows = rows.add(self.mlp(self.pre_mlp_norm(rows), plan, inference_context))
        return rows.joined(), None
