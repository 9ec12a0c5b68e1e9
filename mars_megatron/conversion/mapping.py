"""The mapping table: every parameter of a checkpoint, and the parts it has in Hugging Face's naming.

Parts are the common language of the conversions: the tensors of an exported model, without padding rows and with query,
key and value apart. The parts of a text expert, with `.text` taken out of the name, are those of Llama, Qwen2, Qwen2.5
and Qwen3; the original Qwen has names of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mars_megatron.config.schema import FreezeConfig, RunConfig
from mars_megatron.sequence.vocabulary import Vocabulary

EXPERTS = ("text", "visual")
TEXT_ALONE = ("text",)
SHARED = "shared"

# Sizes by name, as in `Row.shape`; those of the vocabulary differ by expert.
Size = Literal["hidden", "ffn", "query", "group", "head", "vocabulary", "experts"]
# When a row exists, and for whom: for each expert, or once for both.
Condition = Literal["always", "norm", "projection", "bias", "qk_norm", "dense", "routed", "conditioned"]


@dataclass(frozen=True)
class Row:
    """One kind of parameter. `{layer}`, `{expert}` (text, visual, shared) and `{number}` stand in the names.

    Attributes:
        key: In the distributed checkpoint.
        parts: In an exported model; a shared parameter has no `.{expert}`. Without it they are those of a Llama.
        shape: Of every part, or of the first one; `query` stands for `group` in the parts behind it.
        when: See `Condition`.
        qwen: In the original Qwen; where it has one name for several parts, they are stacked.
        dense: Of one of several experts, the parts of the one expert that it starts as a copy of.
    """

    key: str
    parts: tuple[str, ...]
    shape: tuple[Size, ...]
    when: Condition = "always"
    qwen: str = ""
    dense: tuple[str, ...] = ()


def _layer(key: str, part: str, shape: tuple[Size, ...], when: Condition = "always", qwen: str = "") -> Row:
    """A weight of every layer; names without what all of them have."""
    parts = (f"model.layers.{{layer}}.{part}.weight",)
    return Row(f"decoder.layers.{{layer}}.{key}", parts, shape, when, qwen and f"transformer.h.{{layer}}.{qwen}.weight")


def _qkv(kind: str, shape: tuple[Size, ...], when: Condition) -> Row:
    parts = tuple(f"model.layers.{{layer}}.self_attn.{{expert}}.{part}_proj.{kind}" for part in "qkv")
    key = f"decoder.layers.{{layer}}.attention.linear_qkv.{{expert}}.{kind}"
    return Row(key, parts, shape, when, f"transformer.h.{{layer}}.attn.c_attn.{kind}")


def _expert(key: str, projection: str, shape: tuple[Size, ...]) -> Row:
    """A weight of one of several experts."""
    row = _layer(f"mlp.{{expert}}.experts.experts.{{number}}.{key}", f"{_MLP}.experts.{{number}}.{projection}", shape)
    return replace(row, when="routed", dense=_layer("", f"{_MLP}.{projection}", shape).parts)


_ATTENTION, _MLP = "self_attn.{expert}", "mlp.{expert}"
TABLE = (
    Row(
        "embedding.{expert}.weight",
        ("model.embed_tokens.{expert}.weight",),
        ("vocabulary", "hidden"),
        qwen="transformer.wte.weight",
    ),
    _layer("input_norm.{expert}.weight", "input_layernorm.{expert}", ("hidden",), "norm", "ln_1"),
    _qkv("weight", ("query", "hidden"), "always"),
    _qkv("bias", ("query",), "bias"),
    _layer("attention.qk_norm.{expert}.q_layernorm.weight", f"{_ATTENTION}.q_norm", ("head",), "qk_norm"),
    _layer("attention.qk_norm.{expert}.k_layernorm.weight", f"{_ATTENTION}.k_norm", ("head",), "qk_norm"),
    _layer(
        "attention.linear_proj.{expert}.weight",
        f"{_ATTENTION}.o_proj",
        ("hidden", "query"),
        "projection",
        "attn.c_proj",
    ),
    _layer("pre_mlp_norm.{expert}.weight", "post_attention_layernorm.{expert}", ("hidden",), "norm", "ln_2"),
    # megatron-core keeps the two halves of a gated projection apart: _w is the gate, _v the linear one.
    _layer("mlp.{expert}.linear_fc1.weight_w", f"{_MLP}.gate_proj", ("ffn", "hidden"), "dense", "mlp.w2"),
    _layer("mlp.{expert}.linear_fc1.weight_v", f"{_MLP}.up_proj", ("ffn", "hidden"), "dense", "mlp.w1"),
    _layer("mlp.{expert}.linear_fc2.weight", f"{_MLP}.down_proj", ("hidden", "ffn"), "dense", "mlp.c_proj"),
    _layer("mlp.{expert}.router.weight", f"{_MLP}.router", ("experts", "hidden"), "routed"),
    Row(
        "decoder.layers.{layer}.mlp.{expert}.router.condition_weight",
        ("model.layers.{layer}.mlp.{expert}.router.condition_weight",),
        ("experts", "hidden"),
        when="conditioned",
    ),
    _expert("linear_fc1.weight_w", "gate_proj", ("ffn", "hidden")),
    _expert("linear_fc1.weight_v", "up_proj", ("ffn", "hidden")),
    _expert("linear_fc2.weight", "down_proj", ("hidden", "ffn")),
    Row("final_norm.{expert}.weight", ("model.norm.{expert}.weight",), ("hidden",), "norm", "transformer.ln_f.weight"),
    Row("head.{expert}.weight", ("lm_head.{expert}.weight",), ("vocabulary", "hidden"), qwen="lm_head.weight"),
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of one model.

    Attributes:
        row: Its kind.
        expert: text, visual or shared.
        key: In the distributed checkpoint.
        key_shape: There, with padding rows.
        parts: Names in an exported model, with the shape of each.
        text_parts: Names of the parts of the dense text expert of which those of a visual one are copies; else its own.
        qwen: Name in the original Qwen; empty if it has none.
        llama: Names of the parts in Llama, Qwen2, Qwen2.5 and Qwen3.
    """

    row: Row
    expert: str
    key: str
    key_shape: tuple[int, ...]
    parts: dict[str, tuple[int, ...]]
    text_parts: tuple[str, ...]
    qwen: str
    llama: tuple[str, ...]


def parameters(config: RunConfig) -> list[Parameter]:
    """Every parameter of a model, layer by layer, in the order in which a forward meets them."""
    before = [row for row in TABLE if row.key.startswith("embedding.")]
    within = [row for row in TABLE if "{layer}" in row.key]
    behind = [row for row in TABLE if row not in before and row not in within]
    expanded = [parameter for row in before for parameter in _expand(row, config, 0)]
    for layer in range(config.model.num_layers):
        expanded += [parameter for row in within for parameter in _expand(row, config, layer)]
    return expanded + [parameter for row in behind for parameter in _expand(row, config, 0)]


def _expand(row: Row, config: RunConfig, layer: int) -> Iterator[Parameter]:
    for expert in _experts(row, config):
        several = "{number}" in row.key
        for number in range(getattr(config.experts, expert) if several else 1):
            names = {"layer": layer, "expert": expert, "number": number}
            parts = [_name(part, names) for part in row.parts]
            shapes = [_shape(row, place, expert, config) for place in range(len(parts))]
            key_shape = _key_shape(row, shapes, expert, config)
            text_parts = parts
            if expert == "visual":
                text_parts = [_name(part, {**names, "expert": "text"}) for part in row.dense or row.parts]
            yield Parameter(
                row,
                expert,
                row.key.format(**names),
                key_shape,
                dict(zip(parts, shapes, strict=True)),
                text_parts=tuple(text_parts),
                qwen=_name(row.qwen, names) if expert != "visual" else "",
                llama=tuple(_name(part, {**names, "expert": SHARED}) for part in row.parts),
            )


def _name(pattern: str, names: dict[str, object]) -> str:
    if names["expert"] == SHARED:
        pattern = pattern.replace(".{expert}", "")
    return pattern.format(**names)


def _experts(row: Row, config: RunConfig) -> Sequence[str]:
    """Whose parameter it is in this model."""
    model, numbers = config.model, {expert: getattr(config.experts, expert) for expert in EXPERTS}
    apart = TEXT_ALONE if model.shared_experts and row.shape[0] != "vocabulary" else EXPERTS
    if row.when == "norm":
        return EXPERTS if model.expert_norms else (SHARED,)
    if row.when == "projection":
        return apart if model.expert_output_projection else (SHARED,)
    exists = {
        "always": lambda expert: True,
        "bias": lambda expert: model.qkv_bias,
        "qk_norm": lambda expert: model.qk_norm,
        "dense": lambda expert: numbers[expert] == 1,
        "routed": lambda expert: numbers[expert] > 1,
        "conditioned": lambda expert: expert == "visual" and numbers[expert] > 1 and config.router.condition == "text",
    }[row.when]
    return [expert for expert in apart if exists(expert)]


def is_trained(parameter: Parameter, freeze: FreezeConfig) -> bool:
    """Whether a run trains a parameter."""
    return not freeze.of(parameter.expert, is_norm=parameter.row.when == "norm")


def part_names(config: RunConfig, trained: bool) -> list[str]:
    """The parts that a run trains, or those that it leaves as they are."""
    chosen = (parameter for parameter in parameters(config) if is_trained(parameter, config.freeze) == trained)
    return [part for parameter in chosen for part in parameter.parts]


class AttentionShape(NamedTuple):
    """Heads of the attention."""

    num_heads: int
    num_groups: int
    head_dim: int

    @classmethod
    def of(cls, config: RunConfig) -> AttentionShape:
        model = config.model
        size = model.head_dim or model.hidden_size // model.num_attention_heads
        return cls(model.num_attention_heads, model.num_query_groups, size)


def _shape(row: Row, place: int, expert: str, config: RunConfig) -> tuple[int, ...]:
    heads, vocabulary = AttentionShape.of(config), Vocabulary.from_config(config)
    sizes: dict[Size, int] = {
        "hidden": config.model.hidden_size,
        "ffn": config.model.ffn_hidden_size,
        "query": heads.num_heads * heads.head_dim,
        "group": heads.num_groups * heads.head_dim,
        "head": heads.head_dim,
        "vocabulary": vocabulary.text_size if expert == "text" else vocabulary.image_size,
        "experts": getattr(config.experts, expert, 1),
    }
    names = row.shape if place == 0 else ("group", *row.shape[1:])
    return tuple(sizes[name] for name in names)


def _key_shape(row: Row, shapes: list[tuple[int, ...]], expert: str, config: RunConfig) -> tuple[int, ...]:
    rows = sum(shape[0] for shape in shapes)
    if row.shape[0] == "vocabulary":
        vocabulary = Vocabulary.from_config(config)
        rows = vocabulary.padded_text_size if expert == "text" else vocabulary.padded_image_size
    return (rows, *shapes[0][1:])


def join(parameter: Parameter, parts: Sequence[Tensor], heads: AttentionShape) -> Tensor:
    """A parameter of the checkpoint from its parts.

    Query, key and value are interleaved as megatron-core has them, for each group its query heads, its key and its
    value; tables get padding rows of zeros.
    """
    if len(parts) == 1:
        (part,) = parts
        if tuple(part.shape) == parameter.key_shape:
            return part
        padded = part.new_zeros(parameter.key_shape)
        padded[: part.shape[0]] = part
        return padded
    grouped = [part.unflatten(0, (heads.num_groups, -1)) for part in parts]
    return torch.cat(grouped, dim=1).flatten(0, 1)


def split(parameter: Parameter, tensor: Tensor, heads: AttentionShape) -> list[Tensor]:
    """The parts of a parameter of the checkpoint, the inverse of `join`; views where they can be."""
    if len(parameter.parts) == 1:
        ((rows, *_),) = parameter.parts.values()
        return [tensor[:rows]]
    grouped = tensor.unflatten(0, (heads.num_groups, -1))
    sizes = [shape[0] // heads.num_groups for shape in parameter.parts.values()]
    return [part.flatten(0, 1) for part in grouped.split(sizes, dim=1)]
