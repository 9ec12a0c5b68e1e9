"""The tensors of a Hugging Face folder, in one file or many; other models are recognised by their names."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mars_megatron.checkpoint.tensors import TensorInfo
from mars_megatron.files.foreign import PLAIN_WEIGHTS, unfinished
from mars_megatron.files.weights import check_numbers, what_instead

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


# What unpickling raises of a damaged file, beside its own error.
_DAMAGE = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error)
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class HuggingFaceFiles:
    """Every tensor of a folder, or of one safetensors file.

    Files are opened anew for each tensor, so that what was read does not stay in memory.

    Args:
        path: The folder, or a .safetensors file.

    Raises:
        ValueError: There are no weights, a shard is missing or cut off, or the index names what no shard has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_of: dict[str, Path] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._checked: set[str] = set()
        for file, wanted in _files(path):
            found = dict(_contents(file))
            missing = sorted(wanted - found.keys())
            if missing:
                raise ValueError(f"{file} lacks {missing[0]} and {len(missing) - 1} more, which the index places in it")
            self.tensors.update(found)
            self._file_of.update(dict.fromkeys(found, file))

    def where(self, name: str) -> Path:
        """The file that has a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> Tensor:
        """The whole tensor; memory is that of the file (mapped) while it lives.

        Raises:
            ValueError: The file cannot be read any more, or a value is no number.
        """
        file = self._file_of[name]
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(name)
        else:
            tensor = _load_pickle(file)[name]
        if name not in self._checked:  # many are asked for more than once
            check_numbers(tensor, name, file)
            self._checked.add(name)
        return tensor


def _files(path: Path) -> Iterator[tuple[Path, set[str]]]:
    """Every file with the tensors that the index places in it."""
    if path.is_file():
        yield path, set()
        return
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give a Hugging Face model folder")
    found = next((path / name for name in PLAIN_WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise ValueError(f"{path} holds no weights: none of {', '.join(PLAIN_WEIGHTS)}")
    if found.suffix != ".json":
        yield found, set()
        return
    by_file: dict[str, set[str]] = {}
    for name, file in _weight_map(found).items():
        by_file.setdefault(file, set()).add(name)
    for file, names in sorted(by_file.items()):
        if Path(file).name != file:
            raise ValueError(f"{found} names {file!r}; accepted: files beside it")
        if not (path / file).is_file():
            raise ValueError(
                f"{path / file} is missing; {found.name} places {len(names)} tensors in it, such as {min(names)}"
                f"{unfinished(path)}"
            )
        yield path / file, names


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        weight_map: dict[str, str] = content["weight_map"]
        if not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError("a place is no file name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = what_instead(index, may_be_text=True) or error
        raise ValueError(f"{index} is not an index of shards (JSON with a weight_map): {cause}") from error
    return weight_map


def _contents(file: Path) -> Iterator[tuple[str, TensorInfo]]:
    instead = what_instead(file)
    if instead:
        raise ValueError(instead)
    if file.suffix != ".safetensors":
        for name, tensor in _load_pickle(file).items():
            yield name, TensorInfo(tuple(tensor.shape), tensor.dtype)
        return
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                part = opened.get_slice(name)
                if part.get_dtype() not in _DTYPES:
                    raise ValueError(
                        f"{file}: {name} is of type {part.get_dtype()}; accepted: {', '.join(_DTYPES)} (a quantised "
                        f"model must be converted back first){what_tensors(opened.keys())}"
                    )
                yield name, TensorInfo(tuple(part.get_shape()), _DTYPES[part.get_dtype()])
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read, it may be cut off: {error}") from error


def _load_pickle(file: Path) -> dict[str, Tensor]:
    """A .bin file; only tensors are unpickled, nothing is executed."""
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        raise ValueError(f"{file} cannot be read as tensors (weights_only), it may be cut off: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} holds no state dict: accepted is a dictionary of tensors")
    return content


def _is_zip(file: Path) -> bool:
    """Whether torch can map the file; torch before 1.6 wrote another format, which is read whole."""
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"
