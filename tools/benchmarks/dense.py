"""megatron-core's dense GPTModel of one expert's shapes, on the same micro-batches."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.utils import init_method_normal
from torch import Tensor, nn

from benchmarks.sequence import SequenceParams
from mars_megatron.config.schema import RunConfig
from mars_megatron.model.attention import RotaryEmbedding, apply_rotary
from mars_megatron.model.backends import SampleAttention
from mars_megatron.model.transformer_config import build_transformer_config, head_dim
from mars_megatron.sequence import combine
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary


class SampleCore(nn.Module):
    """The project's local attention in the place of megatron-core's, which takes no packed sequences.

    Args:
        config: megatron-core configuration.
        layer_number: Number of the layer, from 1.
        _unused: What else megatron-core says when it builds its own.
    """

    def __init__(self, config: TransformerConfig, layer_number: int, **_unused: Any) -> None:
        super().__init__()
        self.attention = SampleAttention(config, layer_number)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: None,
        *,
        packed_seq_params: SequenceParams,
        **_unused: Any,
    ) -> Tensor:
        """query [tokens, heads, head_dim], key and value [tokens, groups, head_dim] -> [tokens, heads * head_dim]."""
        params = packed_seq_params
        assert mask is None and params.rotary is not None
        query, key, value = (params.to_samples(part) for part in (query, key, value))
        query, key = apply_rotary(query, params.rotary), apply_rotary(key, params.rotary)
        return params.from_samples(self.attention(query, key, value, None, None))


class DenseGPT(GPTModel):
    """One set of weights for all tokens, text and visual; the rows of both vocabularies stand in one table.

    RoPE is the project's (in `SampleCore`), and the head is applied to the rows with a loss only, as it is in a
    `MARSModel`.

    Args:
        config: The run; of it the shapes, the vocabulary and the precision.
        groups: Process groups.
    """

    def __init__(self, config: RunConfig, groups: ProcessGroupCollection) -> None:
        self.sizes = Vocabulary.from_config(config)
        spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.model.qk_norm)
        spec.submodules.self_attention.submodules.core_attention = SampleCore
        core = build_transformer_config(config)
        # The project fills its models itself, which is why this configuration would leave them as they are.
        core.init_method = core.output_layer_init_method = init_method_normal(config.model.init_std)
        core.embedding_init_method = core.init_method
        super().__init__(
            config=core,
            transformer_layer_spec=spec,
            vocab_size=self.sizes.padded_text_size + self.sizes.padded_image_size,
            max_sequence_length=config.data.micro_batch_tokens,
            position_embedding_type="none",
            pg_collection=groups,
        )
        self.rotary = RotaryEmbedding(head_dim(config), config.model.rope_base, config.model.rope_scaling)

    def forward(self, batch: Batch) -> Tensor:
        """fp32 losses [n] of `batch.loss_rows`."""
        plan, num_text = batch.plan, batch.num_text_targets
        first_image_row = self.sizes.padded_text_size
        text_ids, image_rows = batch.input_ids.split(plan.expert_splits)
        ids = combine(torch.cat((text_ids, image_rows + first_image_row)), plan)
        hidden = self.decoder(
            hidden_states=self.embedding(input_ids=ids[None], position_ids=None),
            attention_mask=None,
            packed_seq_params=SequenceParams.from_plan(plan, self.rotary),
        )
        wanted = hidden.index_select(0, plan.sorted_to_sequence[batch.loss_rows])
        logits, _ = self.output_layer(wanted)
        targets = torch.cat((batch.targets[:num_text], batch.targets[num_text:] + first_image_row))
        return self.compute_language_model_loss(targets[None], logits).squeeze(0)
