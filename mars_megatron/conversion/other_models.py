"""Models that are none of those converted here, recognised by their configuration or by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Settings that only such models have.
_MODALITIES = ("vision_config", "audio_config", "visual", "mm_vision_tower", "thinker_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
_BASE = "give the plain language model that it was made from"
# Patterns of names, in the order in which they are looked for, and what such a tensor tells.
_TENSORS = (
    (r"(^|\.)(lora_\w+|base_layer|modules_to_save|lokr_\w+|hada_\w+)(\.|$)|^base_model\.model\.", "an adapter (PEFT)"),
    (r"\.(qweight|qzeros|g_idx|scales|qscale)$", "a model quantised with GPTQ or AWQ"),
    (r"\.(SCB|weight_format|absmax|quant_map|nested_\w+|quant_state\.\w+)$", "a model quantised with bitsandbytes"),
    (r"\.(weight_packed|weight_zero_point|weight_shape|weight_g_idx)$", "a model quantised with compressed-tensors"),
    (r"\.(weight|input|output|k|v|activation)_scale(_inv|_2|_ub)?$", "a model quantised to fp8 or int8"),
    (r"_(blocks|scales)$", "a model quantised to MXFP4"),
    (r"\.(W_q|scale_zp|codes|codebooks|trellis|biases|_scale|_data)$", "a quantised model"),
    (r"^(token_embd|output_norm|blk\.\d+)\.", "a GGUF model"),
    (r"^(tok_embeddings|output|layers\.\d+\.attention\.w[qkvo])\.", "a model as Meta publishes Llama"),
    (r"^(_orig_mod|module|_fsdp_wrapped_module|_forward_module)\.", "a model saved inside a wrapper of its training"),
    (r"linear_(qkv|proj|fc1|fc2)|word_embeddings|query_key_value", "a model of Megatron-LM or GPT-NeoX"),
    (r"vision|visual|image|multi_modal|mm_projector|audio|(^|\.)language_model\.", "a model of several modalities"),
    (r"\.experts?\.|block_sparse_moe|\.mlp\.gate\.|shared_expert", "a mixture of experts"),
    (r"^(score|classifier|qa_outputs|regression_head|reward_head|v_head|value_head)\.", "a classifier or reward model"),
    (r"^(embed_tokens|layers\.\d+)\.|^norm\.weight$", "a model without its head, such as one that embeds texts"),
)


def what_tensors(names: Iterable[str]) -> str:
    """What model has tensors of such names, as a clause for a message; empty where that is not known."""
    names = list(names)
    for pattern, what in _TENSORS:
        found = next((name for name in names if re.search(pattern, name)), None)
        if found is not None:
            return f" ({found} is a tensor of {what}; {_way_out(what)})"
    return ""


def _way_out(what: str) -> str:
    if "adapter" in what:
        return "merge it into its base with peft (merge_and_unload) and save that with save_pretrained"
    if "wrapper" in what:
        return "save the model that it wraps with save_pretrained"
    if "Megatron" in what or "Meta" in what:
        return "take it as a Hugging Face folder"
    return _BASE


def what_model(config: dict[str, Any]) -> str:
    """What a config.json of another model says it is, as a clause for a message; empty where that is not known."""
    architectures = [str(name) for name in config.get("architectures") or ()]
    names = " ".join(architectures)
    if "_class_name" in config:
        return f", it is a {config['_class_name']} of diffusers; a VQModel is given as the image tokenizer"
    if not config.keys().isdisjoint(_MODALITIES):
        return ", a model of several modalities; give a language model alone"
    if not config.keys().isdisjoint(_EXPERTS):
        return ", a mixture of experts; give a dense language model"
    if config.get("is_encoder_decoder") or re.search(r"ForMaskedLM|ForPreTraining|ForConditionalGeneration", names):
        return ", an encoder; give a language model that continues texts (...ForCausalLM)"
    if architectures and not re.search(r"ForCausalLM|LMHead", names):
        return f", and {names} does not continue texts; give a language model (...ForCausalLM)"
    return ""
