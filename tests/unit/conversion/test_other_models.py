"""Weights and configurations of other models are called what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mars_megatron.conversion.convert import init_from_hf

Made = Callable[[str], Path]


def said(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


TENSORS = {
    "model.layers.0.self_attn.q_proj.qweight": "GPTQ or AWQ",
    "model.layers.0.mlp.down_proj.weight.absmax": "bitsandbytes",
    "model.layers.0.mlp.down_proj.SCB": "bitsandbytes",
    "model.layers.0.mlp.down_proj.weight_scale_inv": "fp8",
    "model.layers.0.mlp.down_proj.weight_packed": "compressed-tensors",
    "model.layers.0.mlp.experts.gate_up_proj_blocks": "MXFP4",
    "model.layers.0.mlp.down_proj.W_q": "quantised",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": "adapter",
    "model.layers.0.self_attn.q_proj.base_layer.weight": "adapter",
    "_orig_mod.model.norm.weight": "wrapper",
    "blk.0.attn_q.weight": "GGUF",
    "tok_embeddings.weight": "Meta",
    "visual.blocks.0.attn.qkv.weight": "several modalities",
    "model.layers.0.mlp.experts.0.up_proj.weight": "mixture of experts",
    "score.weight": "classifier",
    "layers.0.input_layernorm.weight": "without its head",
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_other_models(made_language_model: Made, tmp_path: Path, name: str) -> None:
    """The folder says that it is a plain language model, and its tensors that it is not."""
    folder = tmp_path / "model"
    shutil.copytree(made_language_model("qwen2"), folder)
    file = folder / "model.safetensors"
    save_file({**load_file(file), name: torch.ones(2)}, file, {"format": "pt"})
    text = said(lambda: init_from_hf(folder, tmp_path / "out"))
    assert all(message in text for message in (str(file), name, "is unknown", TENSORS[name])), text


def test_packed_types_and_empty_tensors(made_language_model: Made, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made_language_model("qwen2"), folder)
    file, name = folder / "model.safetensors", "model.layers.0.mlp.down_proj.weight"
    found = load_file(file)
    for tensor, more, messages in (
        (found[name].to(torch.uint8), {}, (f"{name} is of type torch.uint8",)),
        (found[name].to(torch.uint8), {f"{name}.quant_map": torch.ones(2)}, ("quant_map", "bitsandbytes")),
        (found[name].to(torch.float8_e4m3fn), {f"{name}_scale_inv": torch.ones(2)}, ("F8_E4M3", "fp8")),
    ):
        save_file({**found, name: tensor, **more}, file, {"format": "pt"})
        text = said(lambda: init_from_hf(folder, tmp_path / "out"))
        assert all(message in text for message in (str(file), *messages)), text
    save_file({**found, name: torch.empty(0)}, file, {"format": "pt"})
    text = said(lambda: init_from_hf(folder, tmp_path / "out"))
    assert f"{name} has the shape [0]" in text and "ZeRO-3" in text


@pytest.mark.parametrize(
    ("config", "messages"),
    [
        ({"model_type": "qwen2_vl", "vision_config": {}}, ("qwen2_vl", "several modalities")),
        ({"model_type": "llava", "vision_config": {}, "text_config": {"model_type": "llama"}}, ("llava", "modalities")),
        ({"model_type": "qwen3_moe", "num_experts": 128}, ("qwen3_moe", "mixture of experts", "dense")),
        ({"model_type": "mixtral", "num_local_experts": 8}, ("mixtral", "mixture of experts")),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, ("deepseek_v3", "mixture of experts")),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, ("bert", "an encoder")),
        ({"model_type": "t5", "is_encoder_decoder": True}, ("t5", "an encoder")),
        ({"model_type": "bert", "architectures": ["BertModel"]}, ("BertModel", "does not continue texts")),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, ("'gpt2'; accepted: qwen, qwen2",)),
        ({"_class_name": "UNet2DConditionModel"}, ("UNet2DConditionModel", "diffusers")),
    ],
)
def test_configurations_of_other_models(tmp_path: Path, config: dict[str, Any], messages: tuple[str, ...]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"x")
    text = said(lambda: init_from_hf(folder, tmp_path / "out"))
    assert all(message in text for message in (str(folder / "config.json"), *messages)), text
