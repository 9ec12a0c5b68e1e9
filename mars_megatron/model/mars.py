"""The MARS model: joined embedding, SemVIE layers, joined head."""

from __future__ import annotations

import torch
from megatron.core.enums import ModelType
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from torch import Tensor

from mars_megatron.config.schema import RunConfig
from mars_megatron.model.attention import RotaryEmbedding
from mars_megatron.model.backends import Backend, LocalBackend
from mars_megatron.model.experts import RoutedSeqParams, build_norm, split_rows
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.model.layer import SemVIELayer, text_needs_grad
from mars_megatron.model.transformer_config import build_transformer_config, head_dim
from mars_megatron.model.vocabulary_parallel import JoinedEmbedding, JoinedHead, gather_rows
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary


class MARSModel(MegatronModule):
    """One pipeline stage of the model; the whole model without pipeline parallelism.

    Args:
        config: The run.
        groups: Process groups.
        pre_process: This stage has the embedding.
        post_process: This stage has the head.
        vp_stage: Model chunk of an interleaved pipeline.
    """

    # Read by megatron-core's gradient finalisation: the tables of embedding and head are separate.
    share_embeddings_and_output_weights = False
    model_type = ModelType.encoder_or_decoder

    def __init__(
        self,
        config: RunConfig,
        groups: ProcessGroupCollection,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> None:
        core = build_transformer_config(config)
        super().__init__(core)
        self.tp_group = groups.tp
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.vocabulary = Vocabulary.from_config(config)
        self.text_is_frozen = config.text_is_frozen
        self.backend = _build_backend(config.training.backend)
        self.rotary = RotaryEmbedding(head_dim(config), config.model.rope_base, config.model.rope_scaling)
        if pre_process:
            self.embedding = JoinedEmbedding(core, self.vocabulary, groups.tp)
        layer = ModuleSpec(module=SemVIELayer, params={"backend": self.backend, "run": config})
        num_layers = get_num_layers_to_build(core, vp_stage, groups.pp.rank())
        self.decoder = TransformerBlock(
            config=core,
            spec=TransformerBlockSubmodules(layer_specs=[layer] * num_layers),
            # The final norm may differ by modality, so it is applied here, where the plan is known.
            post_layer_norm=False,
            pre_process=pre_process,
            post_process=post_process,
            pg_collection=groups,
            vp_stage=vp_stage,
        )
        if post_process:
            self.final_norm = build_norm(core, groups, config.model.expert_norms)
            self.head = JoinedHead(core, self.vocabulary, groups.tp, config.loss.vocabulary)

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor | None] | None) -> None:
        """Take the previous stage's output (called by megatron-core's schedules)."""
        tensor = input_tensor[0] if isinstance(input_tensor, list) else input_tensor
        self.decoder.set_input_tensor(tensor)

    def forward(
        self, batch: Batch, cache: KVCache | None = None, return_logits: bool = False, only: int | None = None
    ) -> Tensor:
        """Run this stage on one packed micro-batch.

        Args:
            batch: Rows in sorted order with their plan, on this process's device.
            cache: Keys and values of earlier tokens, when decoding; the caller advances its lengths.
            return_logits: Logits of `batch.loss_rows` in place of the losses of their targets.
            only: Modality whose ids' logits are wanted; None for those of both.

        Returns:
            Before the last stage: hidden states [local rows, 1, hidden]. On the last: fp32 losses [n] of
            `batch.loss_rows`, or fp32 logits [n, vocabulary.size] (or of the ids of one modality).
        """
        plan = batch.plan
        hidden = None
        if self.pre_process:
            hidden = self.embedding(batch.input_ids, plan.padded_text)
            if self.training and torch.is_grad_enabled() and not hidden.requires_grad:
                # Re-entrant recompute loses every gradient below an input that needs none.
                hidden.requires_grad_(True)
        hidden = self.decoder(
            hidden_states=hidden,
            attention_mask=None,
            rotary_pos_emb=self.rotary(self.backend.positions(plan, cache)),
            inference_context=cache,
            packed_seq_params=RoutedSeqParams.from_plan(plan),
        )
        if not self.post_process:
            return hidden
        return self._head(hidden, batch, return_logits, only)

    def _head(self, hidden: Tensor, batch: Batch, return_logits: bool, only: int | None) -> Tensor:
        plan, sequence_parallel = batch.plan, self.config.sequence_parallel
        num_text, _ = plan.rank_splits(self.tp_group.size() if sequence_parallel else 1)
        needs_grad = text_needs_grad(plan, self.text_is_frozen)
        rows = self.final_norm(split_rows(hidden, num_text, needs_grad))
        whole = gather_rows(rows, self.tp_group, sequence_parallel)
        wanted = whole.index_select(0, batch.loss_rows)  # [n, 1, hidden]
        if return_logits:
            return self.head.logits(wanted, only)
        return self.head.losses(wanted, batch.targets, batch.num_text_targets)


def _build_backend(name: str) -> Backend:
    """The backend of `training.backend`.

    Raises:
        ValueError: unknown name, or Transformer Engine asked for where it is not installed.
    """
    if name == "local":
        return LocalBackend()
    if name == "transformer_engine":
        from mars_megatron.model.transformer_engine import TransformerEngineBackend

        return TransformerEngineBackend()
    raise ValueError(f"training.backend={name!r}: accepted are local and transformer_engine")
