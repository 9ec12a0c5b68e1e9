"""Everything in an exported folder but the weights."""

from __future__ import annotations

from mars_megatron.config.schema import RunConfig
from mars_megatron.huggingface.configuration_mars import MarsConfig


def build_mars_config(
    config: RunConfig, *, num_text_ids: int | None = None, eos_id: int | None = None, pad_id: int | None = None
) -> MarsConfig:
    """The configuration of the exported model of a run.

    Args:
        config: The run.
        num_text_ids: Ids of the text tokenizer; None where there is none.
        eos_id: Its end-of-text id.
        pad_id: What fills up batches; by default eos_id.
    """
    model, scaling, generation = config.model, config.model.rope_scaling, config.generation
    return MarsConfig(
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        head_dim=model.head_dim or model.hidden_size // model.num_attention_heads,
        qkv_bias=model.qkv_bias,
        qk_norm=model.qk_norm,
        rms_norm_eps=model.norm_eps,
        rope_base=model.rope_base,
        rope_type=scaling.type,
        rope_factor=scaling.factor,
        rope_low_freq_factor=scaling.low_freq_factor,
        rope_high_freq_factor=scaling.high_freq_factor,
        rope_original_context=scaling.original_context,
        text_vocab_size=config.vocabulary.text_size,
        codebook_size=config.vocabulary.codebook_size,
        num_text_ids=num_text_ids,
        text_experts=config.experts.text,
        visual_experts=config.experts.visual,
        router_top_k=config.router.top_k,
        router_condition=config.router.condition,
        expert_norms=model.expert_norms,
        expert_output_projection=model.expert_output_projection,
        image_resolution=config.image.resolution,
        image_downsample=config.image.downsample,
        image_generation={
            "guidance": generation.guidance,
            "temperature": generation.temperature,
            "top_k": generation.top_k,
            "top_p": generation.top_p,
        },
        initializer_range=model.init_std,
        eos_token_id=eos_id,
        pad_token_id=eos_id if pad_id is None else pad_id,
    )
