"""A Hugging Face language model as the text side of a MARS model: its shape, and its tensors by part."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mars_megatron.checkpoint.tensors import TensorInfo
from mars_megatron.config.schema import ModelConfig, RopeScalingConfig, RunConfig
from mars_megatron.conversion.hugging_face import HuggingFaceFiles
from mars_megatron.conversion.mapping import parameters
from mars_megatron.conversion.other_models import what_model, what_tensors
from mars_megatron.files.foreign import refuse_foreign
from mars_megatron.files.weights import what_instead

ORIGINAL_QWEN = "qwen"
FAMILIES = (ORIGINAL_QWEN, "qwen2", "qwen3", "llama")
# Buffers that older versions saved.
_NO_PARAMETERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")
HEAD, _EMBEDDING = "lm_head.text.weight", "model.embed_tokens.text.weight"


class Shape(NamedTuple):
    """What a folder's config.json says.

    Attributes:
        model: The transformer.
        text_size: Rows of the embedding.
        tied: Embedding and head are one table.
    """

    model: ModelConfig
    text_size: int
    tied: bool


def model_type(folder: Path) -> str:
    """The architecture that a folder's config.json names.

    Raises:
        ValueError: There is no config.json, or it names none.
    """
    return str(_configuration(folder)["model_type"])


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the Hugging Face model folder that it lies in")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a Hugging Face model folder")
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        cause = what_instead(path, may_be_text=True) or error
        raise ValueError(f"{path} is not a model configuration (JSON with a model_type): {cause}") from error
    if "model_type" not in found:
        raise ValueError(f"{path} is not a model configuration: it has no model_type{what_model(found)}")
    return found


def read_shape(folder: Path) -> Shape:
    """The shape of the language model in a folder.

    Raises:
        ValueError: There is no config.json, it is of another architecture, or has a setting that MARS has no place for.
    """
    refuse_foreign(folder, "language model")
    family, path = model_type(folder), folder / "config.json"
    if family not in FAMILIES:
        raise ValueError(
            f"{path} is of model_type {family!r}{what_model(_configuration(folder))}; accepted: {', '.join(FAMILIES)} "
            "(dense language models)"
        )
    return _original_qwen(path) if family == ORIGINAL_QWEN else _llama_like(path, family)


def _refuse(path: Path, name: str, value: object, accepted: str) -> ValueError:
    return ValueError(f"{path}: {name} is {value!r}; accepted: {accepted}, MARS has no place for another")


def _original_qwen(path: Path) -> Shape:
    """Qwen-7B and its sizes, whose own code is not needed (and not run)."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    defaults = {"rotary_pct": 1.0, "no_bias": True, "tie_word_embeddings": False, "scale_attn_weights": True}
    for name, accepted in defaults.items():
        if plain.get(name, accepted) != accepted:
            raise _refuse(path, name, plain[name], repr(accepted))
    try:
        heads = plain["num_attention_heads"]
        model = ModelConfig(
            num_layers=plain["num_hidden_layers"],
            hidden_size=plain["hidden_size"],
            ffn_hidden_size=plain["intermediate_size"] // 2,  # counts gate and up together
            num_attention_heads=heads,
            num_query_groups=heads,
            head_dim=_explicit_head_dim(plain.get("kv_channels", 128), plain["hidden_size"], heads),
            qkv_bias=True,
            norm_eps=plain.get("layer_norm_epsilon", 1e-6),
            rope_base=float(plain.get("rotary_emb_base", 10000)),
        )
        return Shape(model, plain["vocab_size"], tied=False)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}, which a Qwen configuration has") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has a number that is none: {error}") from error


def _llama_like(path: Path, family: str) -> Shape:
    from transformers import AutoConfig  # knows the defaults of what a config.json leaves out

    try:
        config = AutoConfig.from_pretrained(path.parent, local_files_only=True)
    except Exception as error:  # each version of transformers has its own kinds
        raise ValueError(f"{path} cannot be read by transformers: {error}") from error
    for name, accepted in {"hidden_act": "silu", "mlp_bias": False, "pretraining_tp": 1}.items():
        if getattr(config, name, accepted) != accepted:
            raise _refuse(path, name, getattr(config, name), repr(accepted))
    if family != "qwen2" and getattr(config, "attention_bias", False):
        raise _refuse(path, "attention_bias", True, "False")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise _refuse(path, "layer_types", config.layer_types, "full_attention in every layer")
    heads = config.num_attention_heads
    base, scaling = _rope(path, config)
    model = ModelConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=heads,
        num_query_groups=config.num_key_value_heads or heads,
        head_dim=_explicit_head_dim(getattr(config, "head_dim", None), config.hidden_size, heads),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        norm_eps=config.rms_norm_eps,
        rope_base=base,
        rope_scaling=scaling,
    )
    return Shape(model, config.vocab_size, tied=bool(config.tie_word_embeddings))


def _explicit_head_dim(size: int | None, hidden: int, heads: int) -> int:
    """0 where the size follows from the others."""
    return 0 if size is None or size * heads == hidden else size


def _rope(path: Path, config: Any) -> tuple[float, RopeScalingConfig]:
    """Base period and scaling, as transformers 5 (rope_parameters) or 4 (rope_theta, rope_scaling) names them."""
    settings = getattr(config, "rope_parameters", None) or {}
    if not settings:
        settings = {
            "rope_theta": getattr(config, "rope_theta", 10000.0),
            **(getattr(config, "rope_scaling", None) or {}),
        }
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise _refuse(path, "rope_type", kind, "default, linear, llama3")
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refuse(path, "partial_rotary_factor", settings["partial_rotary_factor"], "1.0")
    base = float(settings["rope_theta"])
    if kind == "default":
        return base, RopeScalingConfig()
    scaling = RopeScalingConfig(type=kind, factor=float(settings["factor"]))
    if kind == "llama3":
        scaling = replace(
            scaling,
            low_freq_factor=float(settings["low_freq_factor"]),
            high_freq_factor=float(settings["high_freq_factor"]),
            original_context=int(settings["original_max_position_embeddings"]),
        )
    return base, scaling


def _why_empty(shape: tuple[int, ...]) -> str:
    if 0 not in shape:
        return ""
    return " (an empty tensor: DeepSpeed ZeRO-3 saved it without gathering; zero_to_fp32.py does that)"


@dataclass(frozen=True)
class _Place:
    """Where a part lies in the folder.

    Attributes:
        name: Of the tensor there.
        rows: First row and number of rows in it.
    """

    name: str
    rows: tuple[int, int]


class LanguageModelParts:
    """The parts of the text expert and the shared norms, read from a language model's folder.

    Args:
        folder: The Hugging Face folder.
        config: A run whose model has the folder's shape.

    Raises:
        ValueError: A tensor is missing, unknown, or of another shape than config.json says.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        shape = read_shape(folder)
        original = model_type(folder) == ORIGINAL_QWEN
        self._files = HuggingFaceFiles(folder)
        self._places: dict[str, _Place] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for parameter in parameters(config):
            if parameter.expert == "visual":
                continue
            first = 0
            for (part, part_shape), plain in zip(parameter.parts.items(), parameter.llama, strict=True):
                name = parameter.qwen if original else plain
                self._places[part] = _Place(name, (first, part_shape[0]))
                first += part_shape[0] if original else 0
        if shape.tied:
            self._places[HEAD] = self._places[_EMBEDDING]
        self._check(folder, config)

    def _check(self, folder: Path, config: RunConfig) -> None:
        known = {place.name for place in self._places.values()}
        unknown = [name for name in self._files.tensors if name not in known and not self._is_left_out(name)]
        if unknown:
            raise ValueError(
                f"{self._files.where(unknown[0])}: {unknown[0]} is unknown (and {len(unknown) - 1} more); "
                "the weights are not those of the model that config.json describes"
                f"{what_tensors(unknown)}"
            )
        wanted = {part: shape for parameter in parameters(config) for part, shape in parameter.parts.items()}
        rows: dict[str, int] = {}
        for place in set(self._places.values()):
            rows[place.name] = rows.get(place.name, 0) + place.rows[1]
        for part, place in self._places.items():
            if place.name not in self._files.tensors:
                raise ValueError(
                    f"{folder} lacks {place.name}, which its config.json asks for{what_tensors(self._files.tensors)}"
                )
            found = self._files.tensors[place.name]
            shape = (rows[place.name], *wanted[part][1:])
            if found.shape != shape:
                raise ValueError(
                    f"{self._files.where(place.name)}: {place.name} has the shape {list(found.shape)}; "
                    f"config.json asks for {list(shape)}{_why_empty(found.shape)}{what_tensors(self._files.tensors)}"
                )
            if not found.dtype.is_floating_point:
                raise ValueError(
                    f"{self._files.where(place.name)}: {place.name} is of type {found.dtype}, not floating point"
                    f"{what_tensors(self._files.tensors)}"
                )
            self.tensors[part] = TensorInfo(wanted[part], found.dtype)

    def _is_left_out(self, name: str) -> bool:
        # Of tied tables the embedding counts, whatever else was saved.
        return name.endswith(_NO_PARAMETERS) or name == "lm_head.weight"

    def read(self, name: str) -> Tensor:
        """A part; see `TensorSource`."""
        place = self._places[name]
        tensor = self._files.read(place.name)
        return tensor.narrow(0, *place.rows)
