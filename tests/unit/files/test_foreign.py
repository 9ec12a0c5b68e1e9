"""What is no plain Hugging Face folder is recognised by name before any work, with the way out."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mars_megatron.conversion.checkpoints import open_checkpoint
from mars_megatron.conversion.convert import init_from_hf
from mars_megatron.files.foreign import refuse_foreign
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer
from tests.support.language_models import language_model
from tests.support.small_index import lines, text_model

__all__ = ["lines", "text_model"]

CONFIG = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 32}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 96\n"
Files = dict[str, object]


def quantised(config: object, **more: object) -> Files:
    return {"config.json": {**CONFIG, "quantization_config": config, **more}, "model.safetensors": b"packed"}


# Files by name (dictionaries as JSON, None for a folder), and what the message says.
FOLDERS: dict[str, tuple[Files, tuple[str, ...]]] = {
    "LoRA": (
        {
            "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-7B"},
            "a.safetensors": b"x",
        },
        ("adapter", "it changes Qwen/Qwen2.5-7B", "merge_and_unload()", 'T.from_pretrained("Qwen/Qwen2.5-7B")'),
    ),
    "LoRA with its base and tokenizer beside it": (
        {
            "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "/models/Qwen"},
            "config.json": CONFIG,
            "model.safetensors": b"whole",
            "tokenizer_config.json": {},
        },
        ("adapter", "/models/Qwen", "merge_and_unload()", "a folder"),
    ),
    "an adapter that is not said to be of anything": (
        {"adapter_config.json": {"peft_type": "IA3"}},
        ("adapter", "does not say", "merge_and_unload()"),
    ),
    "prompt tuning": (
        {"adapter_config.json": {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "gpt2"}},
        ("adapter", "gpt2", "PROMPT_TUNING", "cannot become a part"),
    ),
    "an adapter without its configuration": ({"adapter_model.safetensors": b"x"}, ("adapter_config.json", "peft")),
    "GPTQ": (quantised({"quant_method": "gptq", "bits": 4}), ("quantised", "gptq", "made from")),
    "AWQ that names its base": (
        {**quantised({"quant_method": "awq"}), "README.md": "---\nlicense: x\nbase_model:\n- Qwen/Qwen2-7B\n---\n"},
        ("quantised", "awq", "made from, Qwen/Qwen2-7B"),
    ),
    "bitsandbytes": (
        quantised({"quant_method": "bitsandbytes", "load_in_8bit": True}, _name_or_path="Qwen/Qwen2-1.5B"),
        ("bitsandbytes", "made from, Qwen/Qwen2-1.5B", ".dequantize().save_pretrained(", "save_original_format=False"),
    ),
    "bitsandbytes before it named itself": (quantised({"load_in_4bit": True}), ("bitsandbytes", ".dequantize()")),
    "fp8": (quantised({"quant_method": "fp8"}), ("fp8", "Q(dequantize=True)", "FineGrainedFP8Config")),
    "compressed-tensors": (quantised({"quant_method": "compressed-tensors"}), ("compressed-tensors", "made from")),
    "mxfp4": (quantised({"quant_method": "mxfp4"}), ("mxfp4", "made from")),
    "HQQ": (quantised({"quant_method": "hqq"}), ("hqq", "made from")),
    "torchao": (quantised({"quant_method": "torchao"}), ("torchao", "made from")),
    "a method of tomorrow": (quantised({"bits": 3}), ("unnamed method", "quantization_config")),
    "quantised by AutoGPTQ": (
        {"config.json": CONFIG, "quantize_config.json": {"bits": 4}, "model.safetensors": b"x"},
        ("quantised", "quantize_config.json"),
    ),
    "quantised by ModelOpt": (
        {
            "config.json": CONFIG,
            "hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}},
            "model.safetensors": b"x",
        },
        ("quantised", "hf_quant_config.json"),
    ),
    "quantised by MLX": (
        {"config.json": {**CONFIG, "quantization": {"group_size": 64, "bits": 4}}, "model.safetensors": b"x"},
        ("quantised", "mlx"),
    ),
    "an image tokenizer quantised": (
        {"config.json": {"_class_name": "VQModel", "quantization_config": {"quant_method": "quanto"}}},
        ("quantised", "quanto"),
    ),
    "GGUF": (
        {"model-Q8_0.gguf": b"GGUF" + bytes(99), "model-Q2_K.gguf": b"GGUF", "config.json": CONFIG},
        ("GGUF", 'gguf_file="model-Q8_0.gguf"', "GgufConfig as G", "G(dequantize=True)", "pip install gguf"),
    ),
    "Llama as Meta publishes it": (
        {"consolidated.00.pth": b"x", "params.json": {"dim": 4096}},
        ("consolidated.00.pth", "convert_llama_weights_to_hf", "--input_dir"),
    ),
    "DeepSpeed ZeRO": (
        {"zero_to_fp32.py": "", "latest": "global_step7", "global_step7/mp_rank_00_model_states.pt": b"x"},
        ("DeepSpeed", "zero_to_fp32.py", "config.json"),
    ),
    "a part of DeepSpeed ZeRO": (
        {"bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x", "mp_rank_00_model_states.pt": b"x"},
        ("DeepSpeed", "zero_to_fp32.py"),
    ),
    "Megatron-LM": (
        {"latest_checkpointed_iteration.txt": "100", "iter_0000100/mp_rank_00/model_optim_rng.pt": b"x"},
        ("Megatron", "Hugging Face folder"),
    ),
    "NeMo": ({"model.nemo": b"x"}, ("NeMo", "Megatron-Bridge")),
    "FSDP": (
        {".metadata": b"x", "__0_0.distcp": b"x"},
        ("FSDP", "torch.distributed.checkpoint.format_utils dcp_to_torch"),
    ),
    "FSDP of accelerate": ({"pytorch_model_fsdp_0/__0_0.distcp": b"x"}, ("FSDP", "dcp_to_torch")),
    "TensorFlow": ({"config.json": CONFIG, "tf_model.h5": b"x"}, ("TensorFlow", "from_tf=True")),
    "Flax": ({"config.json": CONFIG, "flax_model.msgpack": b"x"}, ("Flax", "from_flax=True")),
    "ONNX": ({"config.json": CONFIG, "onnx/model.onnx": b"x"}, ("ONNX", "made from")),
    "OpenVINO": (
        {"config.json": CONFIG, "openvino_model.xml": "", "openvino_model.bin": b"x"},
        ("OpenVINO", "made from"),
    ),
    "MLX": ({"config.json": CONFIG, "weights.00.npz": b"x"}, ("an MLX model", "made from")),
    "a training program's own": ({"last.ckpt": b"x", "model.yaml": ""}, ("last.ckpt", "save_pretrained")),
    "weights under another name": (
        {"config.json": CONFIG, "weights.safetensors": b"x"},
        ("weights.safetensors", "accepted"),
    ),
    "shards without their index": (
        {"config.json": CONFIG, "model-00001-of-00002.safetensors": b"x"},
        ("without their index", ".index.json"),
    ),
    "a diffusers pipeline": (
        {"model_index.json": {"_class_name": "AmusedPipeline"}, "vqvae/config.json": {"_class_name": "VQModel"}},
        ("diffusers pipeline", "as an image tokenizer give", "vqvae"),
    ),
    "a pipeline without codes": (
        {"model_index.json": {}, "vae/config.json": {"_class_name": "AutoencoderKL"}},
        ("diffusers pipeline", "none of its parts"),
    ),
    "a download that has not ended": (
        {"config.json": CONFIG, ".cache/huggingface/download/model.safetensors.0f.incomplete": b"x"},
        ("download that has not ended", "hf download"),
    ),
    "a browser's download": ({"config.json": CONFIG, "model.safetensors.crdownload": b"x"}, ("has not ended",)),
    "the cache of the Hub": (
        {"refs/main": "0f", "snapshots/0f/config.json": CONFIG, "snapshots/0f/model.safetensors": b"x"},
        ("cache", "give", "snapshots/0f"),
    ),
    "a training's folder": (
        {f"checkpoint-{step}/config.json": CONFIG for step in (500, 1000)},
        ("a folder of models", "such as", "checkpoint-1000"),
    ),
}


def make(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return folder


def said(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path: Path, name: str) -> None:
    files, messages = FOLDERS[name]
    folder = make(tmp_path / "a folder", files)
    for call in (
        lambda: open_checkpoint(folder),
        lambda: init_from_hf(folder, tmp_path / "out"),
        lambda: load_image_tokenizer(folder),
    ):
        text = said(call)
        assert str(folder) in text
        text = text.replace(str(tmp_path), "")  # which has the name of the test
        assert all(message in text for message in messages), text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["LoRA", "LoRA with its base and tokenizer beside it", "GGUF", "bitsandbytes", "fp8"])
def test_commands_are_python(tmp_path: Path, name: str) -> None:
    """What a message asks to run survives a shell and is Python, whatever the folder is called."""
    folder = make(tmp_path / 'it\'s a "folder"', FOLDERS[name][0])
    command = re.search(r"python -c .*", said(lambda: open_checkpoint(folder)))
    assert command
    words = shlex.split(command.group())
    compile(words[2], "command", "exec")
    assert json.dumps(str(folder)) in words[2] and json.dumps(f"{folder}-plain") in words[2]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("amused/amused-256", "amused/amused-256"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("https://huggingface.co/Qwen/Qwen3-8B/tree/main", "Qwen/Qwen3-8B"),
        ("hf.co/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
    ],
)
def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"hf download {name} --local-dir {name.split('/')[1]}"
    for call in (
        lambda: open_checkpoint(given),
        lambda: init_from_hf(given, tmp_path / "out"),
        lambda: load_image_tokenizer(given),
    ):
        assert command in said(call)


def test_a_path_that_is_not_there_is_no_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/mine", "tokenizers/text.model", "a/b/c", "/models/Qwen", "nothing", "../x"):
        refuse_foreign(Path(path), "model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF" + bytes(20), 'gguf_file="weights.xyz"'),
        (POINTER.encode(), "Git-LFS pointer"),
        (b"# xet version 0\nfilesize = 3\n", "pointer"),
        (b"<html><body>Sign in</body></html>", "web page"),
        (b"Invalid username or password.", "Invalid username"),
        (b"", "is empty"),
    ],
)
def test_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "weights.xyz"
    file.write_bytes(content)
    assert message in said(lambda: refuse_foreign(file, "text tokenizer"))
    assert message in said(lambda: open_checkpoint(file))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.gguf", b"GGUF" + bytes(20), "GGUF"),
        ("text.model", POINTER.encode(), "Git-LFS pointer"),
        ("folder/tokenizer.json", POINTER.encode(), "Git-LFS pointer"),
        ("folder/tokenizer.model", b"<!doctype html>", "web page"),
        ("folder/tokenizer.json", b"", "empty"),
    ],
)
def test_text_tokenizers(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = make(tmp_path, {name: content, "folder/config.json": CONFIG}) / name
    text = said(lambda: load_text_tokenizer(file.parent if file.parent.name == "folder" else file))
    assert str(file) in text and message in text, text


def test_a_text_tokenizer_beside_a_model_of_any_kind(text_model: Path, tmp_path: Path) -> None:
    """It is the tokenizer that is asked for."""
    shutil.copyfile(text_model, make(tmp_path / "model", FOLDERS["bitsandbytes"][0]) / "tokenizer.model")
    make(tmp_path / "model", FOLDERS["LoRA"][0])
    assert load_text_tokenizer(tmp_path / "model").size == load_text_tokenizer(text_model).size


def test_a_text_tokenizer_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "hf download Qwen/Qwen3-8B" in said(lambda: load_text_tokenizer("Qwen/Qwen3-8B"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    language_model("qwen2").save_pretrained(folder)
    return folder


def test_what_lies_beside_plain_weights_is_no_matter(whole: Path, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "model",
        {
            **{path.name: path.read_bytes() for path in whole.iterdir()},
            "model.gguf": b"GGUF",
            "onnx/model.onnx": b"x",
            "original/consolidated.00.pth": b"x",
            "tf_model.h5": b"x",
            "checkpoint-5/config.json": CONFIG,
            "zero_to_fp32.py": "",
        },
    )
    assert open_checkpoint(folder).format == "language_model"


def test_shards_of_an_unfinished_download(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    language_model("llama").save_pretrained(folder, max_shard_size="20KB")
    shard = sorted(folder.glob("*-of-*"))[1]
    shard.rename(shard.with_name(shard.name + ".incomplete"))
    text = said(lambda: init_from_hf(folder, tmp_path / "out"))
    assert all(message in text for message in (f"{shard} is missing", ".incomplete is left", "hf download")), text
    shard.write_text(POINTER)
    assert f"{shard} is a Git-LFS pointer" in said(lambda: init_from_hf(folder, tmp_path / "out"))


def test_a_file_in_place_of_the_folder(whole: Path, tmp_path: Path) -> None:
    file = whole / "model.safetensors"
    assert f"{file} is a file; give the Hugging Face model folder" in said(lambda: init_from_hf(file, tmp_path / "out"))


@pytest.mark.parametrize("given", ["run", "run/step_00000002"])
@pytest.mark.parametrize("has_images", [True, False])
def test_a_run_of_this_project(tmp_path: Path, given: str, has_images: bool) -> None:
    files: Files = {"run/latest": b"step_00000002", "run/tokenizer.model": b"1"}
    files |= {f"run/step_00000002/{name}": b"1" for name in ("config.yaml", "metadata.json", "__0_0.distcp")}
    if has_images:
        files["run/image_tokenizer/config.json"] = b"{}"
    folder = make(tmp_path, files) / given
    message = said(lambda: refuse_foreign(folder, "language model"))
    assert "is a run or checkpoint of this project" in message and "checkpoint.init_from" in message
    assert (str(tmp_path / "run" / "image_tokenizer") in message) == has_images
