"""Everything in an exported folder but the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mars_megatron.config import to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.export.code import write_code
from mars_megatron.export.configuration_mars import IMAGE_GENERATION, MarsConfig
from mars_megatron.export.model_card import model_card
from mars_megatron.export.text_tokenizer import write_text_tokenizer
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer
from mars_megatron.tokenizers.image import VQImageTokenizer, copy_image_tokenizer
from mars_megatron.tokenizers.text_checks import check_table

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
IMAGE_TOKENIZER = "image_tokenizer"
TRAINING_CONFIG = "training_config.yaml"
_CODE = {
    "AutoConfig": "configuration_mars.MarsConfig",
    "AutoModelForCausalLM": "modeling_mars.MarsForCausalLM",
    "AutoModel": "modeling_mars.MarsModel",
}
_PROCESSOR = {"AutoProcessor": "processing_mars.MarsProcessor"}


def write_companions(
    folder: Path, config: RunConfig, *, step: int, dtype: str, text_tokenizer: str, image_tokenizer: str
) -> None:
    """Write all files of an exported folder but the weights.

    Args:
        folder: Exists; files of these names are replaced.
        config: The run.
        step: Training step of the weights.
        dtype: Type of the weights: fp32, bf16 or fp16.
        text_tokenizer: SentencePiece model file or Hugging Face tokenizer folder; empty leaves out text and processor.
        image_tokenizer: Folder of a diffusers VQModel; empty leaves it out.

    Raises:
        ValueError: A tokenizer is missing, does not fit the run, or cannot be exported exactly.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join(DTYPES)}")
    num_text_ids = eos_id = None
    if text_tokenizer:
        tokenizer = load_text_tokenizer(text_tokenizer)
        check_table(tokenizer, config.vocabulary.text_size)
        num_text_ids, eos_id = min(tokenizer.size, config.vocabulary.text_size), tokenizer.eos_id
        write_text_tokenizer(text_tokenizer, folder, config.vocabulary.text_size)
    if image_tokenizer:
        _check_image_tokenizer(image_tokenizer, config)
        copy_image_tokenizer(image_tokenizer, folder / IMAGE_TOKENIZER)
    write_code(folder)
    mars = build_mars_config(config, num_text_ids=num_text_ids, eos_id=eos_id)
    _write_json(folder / "config.json", _config_json(mars, step, DTYPES[dtype], bool(text_tokenizer)))
    ends = {} if eos_id is None else {"eos_token_id": eos_id, "pad_token_id": eos_id}
    generation = {**ends, "max_new_tokens": config.generation.max_caption_tokens}
    _write_json(folder / "generation_config.json", generation)
    if text_tokenizer:
        _write_json(folder / "processor_config.json", _processor_json(mars))
    (folder / TRAINING_CONFIG).write_text(to_yaml(config), encoding="utf-8")
    card = model_card(
        config,
        title="MARS",
        step=step,
        dtype=DTYPES[dtype],
        has_text=bool(text_tokenizer),
        has_images=bool(image_tokenizer),
        needs_sentencepiece=(folder / "tokenizer.model").exists(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _check_image_tokenizer(folder: str, config: RunConfig) -> None:
    tokenizer = load_image_tokenizer(folder)
    if not isinstance(tokenizer, VQImageTokenizer):
        raise ValueError(
            f"image tokenizer {folder} is a {type(tokenizer).__name__}; an exported folder takes a VQModel"
        )
    codes, pixels = tokenizer.codebook_size, tokenizer.downsample
    wanted = {"vocabulary.codebook_size": config.vocabulary.codebook_size, "image.downsample": config.image.downsample}
    for (name, value), there in zip(wanted.items(), (codes, pixels), strict=True):
        if value != there:
            raise ValueError(f"image tokenizer {folder} has {there} for {name}; accepted: {value}, that of the run")


def _config_json(config: MarsConfig, step: int, dtype: str, has_processor: bool) -> dict[str, Any]:
    own = MarsConfig().to_dict()
    elsewhere = {*type(config).__mro__[1]().to_dict(), "bos_token_id"}  # of transformers' base, and always None
    values = {name: value for name, value in config.to_dict().items() if name in own and name not in elsewhere}
    return {
        "architectures": ["MarsForCausalLM"],
        "auto_map": _CODE | (_PROCESSOR if has_processor else {}),
        "model_type": config.model_type,
        "dtype": dtype,
        "tie_word_embeddings": False,
        "training_step": step,
        **values,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def _processor_json(config: MarsConfig) -> dict[str, Any]:
    return {
        "processor_class": "MarsProcessor",
        "auto_map": _PROCESSOR,
        "text_vocab_size": config.text_vocab_size,
        "codebook_size": config.codebook_size,
        "resolution": config.image_resolution,
        "downsample": config.image_downsample,
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
        image_next_k=config.image.next_k,
        image_generation={name: getattr(generation, name) for name in IMAGE_GENERATION},
        initializer_range=model.init_std,
        eos_token_id=eos_id,
        pad_token_id=eos_id if pad_id is None else pad_id,
    )
