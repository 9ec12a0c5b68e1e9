"""What people have in place of a plain Hugging Face folder, recognised by its files, and the way out of each."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mars_megatron.files.weights import what_instead

PLAIN_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_TRAINING = "save it with save_pretrained (transformers, diffusers) in the program that trained it"
_OLD = "transformers below 5 reads it: M.from_pretrained(FOLDER, {}=True).save_pretrained(TARGET)"
_GGUF = "a GGUF model (llama.cpp)"
# Adapters of these kinds change no weights.
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT")


class Kind(NamedTuple):
    """One kind of folder.

    Attributes:
        signs: Patterns of names in the folder; one that matches tells the kind.
        what: What the folder is.
        way_out: What to do, as a text or made of the folder and the file that matched.
    """

    signs: tuple[str, ...]
    what: str
    way_out: str | Callable[[Path, Path], str]


def _python(*statements: str) -> str:
    return f"python -c {shlex.quote('; '.join(statements))}"


def _target(folder: Path) -> str:
    """A name for what a command makes of a folder, as a literal of Python."""
    return json.dumps(f"{folder.resolve()}-plain", ensure_ascii=False)


def _literal(path: Path) -> str:
    return json.dumps(str(path.resolve()), ensure_ascii=False)


def _merge_adapter(folder: Path, config: Path) -> str:
    found = _json(config)
    base, kind = found.get("base_model_name_or_path"), str(found.get("peft_type", ""))
    made = f"it changes {base}" if base else "it does not say which model it changes"
    if kind in _PROMPTS:
        return f"{made}, but as {kind} it cannot become a part of its weights: give the model itself"
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = _literal(folder) if has_tokenizer or not base else json.dumps(base, ensure_ascii=False)
    command = _python(
        "from peft import AutoPeftModelForCausalLM as M",
        "from transformers import AutoTokenizer as T",
        f'M.from_pretrained({_literal(folder)}, dtype="auto").merge_and_unload().save_pretrained({_target(folder)})',
        f"T.from_pretrained({tokenizer}).save_pretrained({_target(folder)})",
    )
    return f"{made}. Merge it into that and give the result (needs peft): {command}"


def _unpack_gguf(folder: Path, file: Path) -> str:
    load = f'{_literal(folder)}, gguf_file="{file.name}"'
    command = _python(
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T, GgufConfig as G",
        f"M.from_pretrained({load}, quantization_config=G(dequantize=True)).save_pretrained({_target(folder)})",
        f"T.from_pretrained({load}).save_pretrained({_target(folder)})",
    )
    return (
        "take the original folder where there is one, GGUF is mostly quantised. Or turn it back and give the result "
        f"(pip install gguf; where transformers has no GgufConfig, without quantization_config): {command}"
    )


def _unpack_largest_gguf(folder: Path, _: Path) -> str:
    """Of several the one that lost least."""
    return _unpack_gguf(folder, max(folder.glob("*.gguf"), key=lambda path: path.stat().st_size))


def _newest(folder: Path, _: Path) -> str:
    def number(path: Path) -> tuple[int, str]:
        return int((re.findall(r"\d+", path.parent.name) or ["0"])[-1]), path.name

    found = sorted(folder.glob("*/config.json"), key=number)
    return f"give one of its folders, such as {found[-1].parent}"


def _snapshot(folder: Path, file: Path) -> str:
    return f"give {file.parent}"


def _pipeline(folder: Path, _: Path) -> str:
    parts = sorted(path.parent for path in folder.glob("*/config.json") if _json(path).get("_class_name") == "VQModel")
    return f"as an image tokenizer give {parts[0]}" if parts else "none of its parts is a VQModel or a language model"


def _original_llama(folder: Path, _: Path) -> str:
    if (folder.parent / "config.json").is_file():
        return f"give {folder.parent}, where the same model lies as Hugging Face has it"
    return (
        "download the model as Hugging Face has it (hf download), or convert it with transformers below 5: python -m "
        f"transformers.models.llama.convert_llama_weights_to_hf --input_dir {shlex.quote(str(folder))} --output_dir "
        "TARGET --model_size SIZE --llama_version VERSION"
    )


def _download_on(folder: Path, _: Path) -> str:
    return f"let it end, or go on with: hf download OWNER/NAME --local-dir {shlex.quote(str(folder))}"


def _gather_zero(folder: Path, _: Path) -> str:
    return (
        f"gather it with: python {shlex.quote(str(folder / 'zero_to_fp32.py'))} {shlex.quote(str(folder))} TARGET "
        "--safe_serialization (DeepSpeed wrote the script there), and put config.json and tokenizer beside the result"
    )


def _gather_dcp(folder: Path, _: Path) -> str:
    return (
        f"gather it with: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(folder))} "
        "model.pt, load that into the model that was trained and save it with save_pretrained"
    )


# Changed or packed weights: whatever lies beside them.
_NEVER_PLAIN = (Kind(("adapter_config.json",), "an adapter (PEFT), not a whole model", _merge_adapter),)
# Looked at in this order, where a folder has no plain weights.
_WITHOUT_WEIGHTS = (
    Kind(
        ("*.incomplete", ".cache/huggingface/download/**/*.incomplete", "*.part", "*.crdownload", "*.aria2"),
        "a download that has not ended",
        _download_on,
    ),
    Kind(("snapshots/*/config.json",), "a folder of the Hugging Face cache", _snapshot),
    Kind(("*.gguf",), _GGUF, _unpack_largest_gguf),
    Kind(("model_index.json",), "a diffusers pipeline", _pipeline),
    Kind(
        ("adapter_model.safetensors", "adapter_model.bin"),
        "an adapter without its adapter_config.json",
        "put that beside it, and merge it into its base with peft",
    ),
    Kind(("consolidated*.pth", "consolidated*.safetensors"), "a model as its makers published it", _original_llama),
    Kind(
        ("zero_to_fp32.py", "*_model_states.pt", "*_optim_states.pt", "global_step*"),
        "a DeepSpeed checkpoint",
        _gather_zero,
    ),
    Kind(
        ("latest_checkpointed_iteration.txt", "iter_*", "mp_rank_*", "model_optim_rng.pt"),
        "a checkpoint of Megatron-LM",
        "turn it into a Hugging Face folder with the program that trained it (Megatron-Bridge: AutoBridge.export_ckpt)",
    ),
    Kind(("*.nemo", "model_weights"), "a NeMo model", "turn it into a Hugging Face folder with Megatron-Bridge"),
    Kind(("*.distcp", "pytorch_model_fsdp*"), "a sharded checkpoint of PyTorch (FSDP)", _gather_dcp),
    Kind(("tf_model*.h5",), "a TensorFlow model", _OLD.format("from_tf")),
    Kind(("flax_model*.msgpack",), "a Flax model", _OLD.format("from_flax")),
    Kind(("*.npz", "*.mlx"), "an MLX model", f"give the model that it was made from, or {_TRAINING}"),
    Kind(
        ("*.onnx", "onnx/*.onnx", "openvino_model*.xml", "*.engine", "*.mlpackage", "*.tflite", "rust_model.ot"),
        "a model for inference alone (ONNX, OpenVINO, TensorRT, Core ML or the like)",
        "give the Hugging Face folder that it was made from",
    ),
    Kind(("*.ckpt", "*.pt", "*.pth", "*.keras", "*.h5"), "a training program's own checkpoint", _TRAINING),
    Kind(
        ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin"),
        "a model in several files without their index",
        "download the .index.json too, it says which tensor lies where",
    ),
    Kind(("*.safetensors", "*.bin"), "weights under a name of their own", f"accepted: {', '.join(PLAIN_WEIGHTS)}"),
    Kind(("*/config.json",), "a folder of models", _newest),
)
_QUANTISED = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
# How transformers unpacks what it can.
_UNPACK = {
    "bitsandbytes": ("", "M.from_pretrained({}).dequantize().save_pretrained({}, save_original_format=False)"),
    "fp8": (
        ", FineGrainedFP8Config as Q",
        "M.from_pretrained({}, quantization_config=Q(dequantize=True)).save_pretrained({})",
    ),
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_ADDRESS = re.compile(r"(?:https?:/+)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)")


def refuse_foreign(path: Path, setting: str) -> None:
    """Refuse what is recognised as something else than a plain Hugging Face folder or file, before it is opened.

    Args:
        path: What was given: a folder, a file, or a name of something on the Hub.
        setting: What the message calls it.

    Raises:
        ValueError: It is of such a kind; with the way out.
    """
    if not path.exists():
        _refuse_hub_name(path, setting)
    elif path.is_file():
        _refuse_file(path, setting)
    else:
        _refuse_folder(path, setting)


def refuse_foreign_tokenizer(path: Path) -> None:
    """The same for a text tokenizer's file or folder, which may hold a model of any kind beside it.

    Raises:
        ValueError: A file is something else, or there is none and the path is a name of something on the Hub.
    """
    if not path.exists():
        _refuse_hub_name(path, "text tokenizer")
    for file in (path, path / "tokenizer.json", path / "tokenizer.model"):
        if file.is_file():
            _refuse_file(file, "text tokenizer", may_be_text=True)


def _refuse_file(file: Path, setting: str, *, may_be_text: bool = False) -> None:
    instead = what_instead(file, may_be_text=may_be_text)
    if instead:
        raise ValueError(f"{setting}: {instead}")
    if _is_gguf(file):
        raise _foreign(file, setting, _GGUF, _unpack_gguf(file.parent, file))


def unfinished(folder: Path) -> str:
    """What an incomplete download has left in a folder, as a clause for a message; empty where there is nothing."""
    download = _WITHOUT_WEIGHTS[0]
    left = [path for sign in download.signs for path in folder.glob(sign)]
    return f" (a download has not ended, {left[0].name} is left; {_download_on(folder, left[0])})" if left else ""


def _foreign(path: Path, setting: str, what: str, way_out: str) -> ValueError:
    return ValueError(f"{setting} {path} is {what}; {way_out}")


def _refuse_folder(folder: Path, setting: str) -> None:
    _refuse(folder, setting, _NEVER_PLAIN)
    _refuse_quantised(folder, setting)
    if not _is_plain(folder):
        _refuse_own(folder, setting)
        _refuse(folder, setting, _WITHOUT_WEIGHTS)


def _refuse_own(folder: Path, setting: str) -> None:
    """Refuse a run or checkpoint of this project, which is no Hugging Face folder either."""
    is_checkpoint = (folder / "config.yaml").is_file() and any(folder.glob("*.distcp"))
    if not is_checkpoint and not any(folder.glob("step_????????/config.yaml")):
        return
    places = (root / "image_tokenizer" for root in (folder, folder.parent))
    images = next((f"; its image tokenizer is {place}" for place in places if place.is_dir()), "")
    raise _foreign(
        folder,
        setting,
        "a run or checkpoint of this project",
        f"training starts from it with checkpoint.init_from{images}",
    )


def _is_plain(folder: Path) -> bool:
    """Whether a folder has weights under the names that are read here: of a language model, or a VQModel."""
    return any((folder / name).is_file() for name in PLAIN_WEIGHTS) or any(folder.glob("diffusion_pytorch_model*"))


def _refuse(folder: Path, setting: str, kinds: Iterable[Kind]) -> None:
    for kind in kinds:
        file = next((path for sign in kind.signs for path in sorted(folder.glob(sign))), None)
        if file is not None:
            way_out = kind.way_out if isinstance(kind.way_out, str) else kind.way_out(folder, file)
            raise _foreign(folder, setting, f"{kind.what} ({file.relative_to(folder)})", way_out)


def _refuse_quantised(folder: Path, setting: str) -> None:
    config = _json(folder / "config.json")
    found, place = config.get("quantization_config"), "config.json: quantization_config"
    if not found and isinstance(config.get("quantization"), dict):  # as MLX writes it
        found, place = {"quant_method": "mlx"}, "config.json: quantization"
    for name in _QUANTISED:
        if not found and (folder / name).is_file():
            found, place = _json(folder / name) or {"": ""}, name
    if not found:
        return
    method = str(found.get("quant_method", "")) or ("bitsandbytes" if "load_in_4bit" in found else "an unnamed method")
    original = _original(folder, config)
    way_out = f"give the model that it was made from{f', {original}' if original else ''}"
    if method in _UNPACK and "model_type" in config:
        imports, statement = _UNPACK[method]
        code = (f"from transformers import AutoModelForCausalLM as M{imports}",)
        way_out += (
            " (better), or unpack this one and put its tokenizer beside the result: "
            f"{_python(*code, statement.format(_literal(folder), _target(folder)))}"
        )
    raise _foreign(folder, setting, f"a quantised model ({place}, {method}), its weights are packed", way_out)


def _original(folder: Path, config: dict[str, Any]) -> str:
    """The model that a folder says it was made from."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:4096] if card.is_file() else ""
    found = re.search(r"^base_model:\s*(?:-\s*)?([\w./-]+)", text, re.MULTILINE)
    return found.group(1) if found else str(config.get("_name_or_path") or "")


def _refuse_hub_name(path: Path, setting: str) -> None:
    text = str(path)
    address = _HUB_ADDRESS.match(text)
    is_name = _HUB_NAME.fullmatch(text) and not path.parent.exists() and not path.suffix[1:].isalpha()
    name = address.group(1) if address else text if is_name else ""
    if name:
        raise ValueError(
            f"{setting} {text} does not exist on this machine; if it is one on the Hugging Face Hub, download it and "
            f"give the folder: hf download {name} --local-dir {Path(name).name}"
        )


def _is_gguf(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"GGUF"


def _json(path: Path) -> dict[str, Any]:
    """What a file of JSON says; nothing where there is none, or none that can be read: who opens it says so."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
