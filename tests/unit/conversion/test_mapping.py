"""The mapping table: every parameter of every model, once, in both namings, and the interleaving of attention heads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch import nn
from transformers import AutoModelForCausalLM

from examples.digits import recipes as digits
from mars_megatron.checkpoint.store import _metadata, _sharded_model
from mars_megatron.config import validate
from mars_megatron.config.schema import ParallelConfig, RecomputeConfig, RunConfig
from mars_megatron.conversion.mapping import (
    TABLE,
    AttentionShape,
    Parameter,
    is_trained,
    join,
    parameters,
    part_names,
    split,
)
from mars_megatron.model import build_model
from mars_megatron.recipes import RECIPES
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.language_models import FAMILIES, OriginalQwen
from tests.support.tiny import one_rank, tiny_config

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms of experts": {"model.expert_norms": True},
    "one projection": {"model.expert_output_projection": False},
    "shared experts": {"model.shared_experts": True, "model.qk_norm": True, "freeze.text": False},
    "shared experts, one projection": {
        "model.shared_experts": True,
        "model.expert_output_projection": False,
        "freeze.text": False,
    },
    "several experts": {"experts.text": 2, "experts.visual": 4},
    "several visual experts": {"experts.visual": 3, "router.condition": "text"},
    "qk norm": {"model.qk_norm": True, "model.expert_norms": True},
    "no bias": {"model.qkv_bias": False},
    "wide heads": {"model.head_dim": 6, "model.qk_norm": True},
    "plain attention": {"model.num_query_groups": 4},
    "one group": {"model.num_query_groups": 1},
    "much padding": {"vocabulary.pad_multiple": 64},
    "no padding": {"vocabulary.pad_multiple": 1},
}


def shrunk(config: RunConfig) -> RunConfig:
    """The structure of a recipe on one rank, in a size that takes no time."""
    model = replace(
        config.model,
        num_layers=2,
        hidden_size=16,
        ffn_hidden_size=24,
        num_attention_heads=4,
        num_query_groups=2 if config.model.num_query_groups < config.model.num_attention_heads else 4,
        head_dim=6 if config.model.head_dim else 0,
    )
    return replace(
        config,
        model=model,
        vocabulary=replace(config.vocabulary, text_size=29, codebook_size=13),
        parallel=ParallelConfig(),
        recompute=RecomputeConfig(),
    )


DIGITS = {"base": digits.base, "mars": digits.mars}
CONFIGS = {f"recipe {name}": shrunk(recipe()) for name, recipe in {**RECIPES, **DIGITS}.items()}
CONFIGS |= {name: tiny_config(changes) for name, changes in VARIANTS.items()}


def stored_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Keys and whole shapes of what the trainer saves of a real model."""
    groups = one_rank()
    sharded = _sharded_model(build_model(config, groups), _metadata(groups))
    apply_factories(sharded)
    tensors = [value for value in nested_values(sharded) if isinstance(value, ShardedTensor)]
    keys = Counter(tensor.key for tensor in tensors)
    assert set(keys.values()) == {1}
    return {tensor.key: tuple(tensor.global_shape) for tensor in tensors}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_mapped_exactly_once(name: str) -> None:
    config, mapped = CONFIGS[name], parameters(CONFIGS[name])
    keys = [parameter.key for parameter in mapped]
    parts = [part for parameter in mapped for part in parameter.parts]
    assert max(Counter(keys).values()) == max(Counter(parts).values()) == 1
    assert {parameter.key: parameter.key_shape for parameter in mapped} == stored_shapes(config)
    assert all("{" not in text for text in (*keys, *parts, *(parameter.qwen for parameter in mapped)))


def test_all_recipes_are_looked_at() -> None:
    assert {"tiny", "mars_7b_stage1", "mars_7b_stage2", "mars_7b_stage3"} <= RECIPES.keys()
    used = {parameter.row for config in CONFIGS.values() for parameter in parameters(config)}
    assert used == set(TABLE), "every row of the table is the row of some model"


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_have_the_elements_of_their_parameter(name: str) -> None:
    """All of them, and nothing of the padding."""
    config = CONFIGS[name]
    vocabulary = Vocabulary.from_config(config)
    for parameter in parameters(config):
        rows = sum(shape[0] for shape in parameter.parts.values())
        padding = 0
        if parameter.row.shape[0] == "vocabulary":
            sizes = {
                "text": (vocabulary.text_size, vocabulary.padded_text_size),
                "visual": (vocabulary.image_size, vocabulary.padded_image_size),
            }
            real, padded = sizes[parameter.expert]
            assert (rows, parameter.key_shape[0]) == (real, padded)
            padding = padded - real
        assert rows + padding == parameter.key_shape[0]
        assert all(shape[1:] == parameter.key_shape[1:] for shape in parameter.parts.values())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "frozen", [(True, False, True), (False, False, False), (False, True, True), (False, False, True)]
)
def test_what_is_trained(name: str, frozen: tuple[bool, bool, bool]) -> None:
    """As the trainer freezes a real model."""
    text, visual, norms = frozen
    config = CONFIGS[name]
    config = replace(config, freeze=replace(config.freeze, text=text, visual=visual, norms=norms))
    (model,) = build_model(config, one_rank())
    # The checkpoint has the two halves of linear_fc1 apart, and its experts below another name.
    expected = {
        parameter.key: is_trained(parameter, config.freeze)
        for parameter in parameters(config)
        if not parameter.key.endswith("_v")
    }
    found = {in_checkpoint(key): value.requires_grad for key, value in model.named_parameters()}
    assert found == expected
    trained, left = set(part_names(config, trained=True)), set(part_names(config, trained=False))
    assert not trained & left and trained | left == {part for p in parameters(config) for part in p.parts}


def in_checkpoint(name: str) -> str:
    """The key of a model's parameter."""
    name = name.replace("linear_fc1.weight", "linear_fc1.weight_w")
    return name.replace(".local_experts.", ".experts.")


# Attention heads


def qkv(num_groups: int, per_group: int, head_dim: int, hidden: int = 3) -> tuple[Parameter, AttentionShape]:
    heads = num_groups * per_group
    changes = {
        "model.num_attention_heads": heads,
        "model.num_query_groups": num_groups,
        "model.head_dim": head_dim,
        "model.hidden_size": heads * hidden,
    }
    config = tiny_config(changes)
    parameter = next(p for p in parameters(config) if p.key.endswith("linear_qkv.text.weight"))
    return parameter, AttentionShape.of(config)


SHAPES = {"num_groups": st.integers(1, 5), "per_group": st.integers(1, 4), "half": st.integers(1, 4)}


@settings(deadline=None, max_examples=30)
@given(**SHAPES)
def test_joining_interleaves_the_heads_of_each_group(num_groups: int, per_group: int, half: int) -> None:
    """megatron-core's order written out row by row: a group's queries, its key, its value."""
    parameter, heads = qkv(num_groups, per_group, 2 * half)
    query, key, value = (torch.randn(shape) for shape in parameter.parts.values())
    size, rows = 2 * half, []
    for group in range(num_groups):
        for head in range(group * per_group, (group + 1) * per_group):
            rows += [query[head * size + row] for row in range(size)]
        rows += [key[group * size + row] for row in range(size)]
        rows += [value[group * size + row] for row in range(size)]
    joined = join(parameter, [query, key, value], heads)
    assert joined.shape == parameter.key_shape and torch.equal(joined, torch.stack(rows))


@settings(deadline=None, max_examples=30)
@given(**SHAPES)
def test_joining_and_splitting_are_inverse(num_groups: int, per_group: int, half: int) -> None:
    parameter, heads = qkv(num_groups, per_group, 2 * half)
    parts = [torch.randn(shape) for shape in parameter.parts.values()]
    again = split(parameter, join(parameter, parts, heads), heads)
    assert all(torch.equal(part, other) for part, other in zip(parts, again, strict=True))
    whole = torch.randn(parameter.key_shape)
    assert torch.equal(join(parameter, split(parameter, whole, heads), heads), whole)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_parameters_there_and_back(name: str) -> None:
    """Biases and tables too; padding becomes zeros."""
    config = CONFIGS[name]
    heads = AttentionShape.of(config)
    for parameter in parameters(config):
        parts = [torch.randn(shape) for shape in parameter.parts.values()]
        whole = join(parameter, parts, heads)
        assert whole.shape == parameter.key_shape
        assert all(torch.equal(*pair) for pair in zip(parts, split(parameter, whole, heads), strict=True))
        if parameter.row.shape[0] == "vocabulary":
            assert not whole[len(parts[0]) :].any()


# Names of language models


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_of_text_experts_are_those_of_transformers(family: str) -> None:
    config = FAMILIES[family]
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(value.shape) for name, value in model.named_parameters()}
    changes = {
        "model.num_layers": config.num_hidden_layers,
        "model.hidden_size": config.hidden_size,
        "model.ffn_hidden_size": config.intermediate_size,
        "model.num_attention_heads": config.num_attention_heads,
        "model.num_query_groups": config.num_key_value_heads,
        "model.head_dim": config.head_dim if config.model_type == "qwen3" else 0,
        "model.qkv_bias": config.model_type == "qwen2",
        "model.qk_norm": config.model_type == "qwen3",
        "vocabulary.text_size": config.vocab_size,
    }
    ours = validate(tiny_config(changes))
    found = {
        part.replace(".text.", "."): shape
        for parameter in parameters(ours)
        if parameter.expert != "visual"
        for part, shape in parameter.parts.items()
    }
    if config.tie_word_embeddings:
        assert found.pop("lm_head.weight") == expected["model.embed_tokens.weight"]
    assert found == expected


def test_names_and_shapes_of_the_original_qwen() -> None:
    changes = {
        "model.num_layers": 4,
        "model.hidden_size": 32,
        "model.ffn_hidden_size": 48,
        "model.num_query_groups": 4,
        "vocabulary.text_size": 61,
    }
    found: dict[str, tuple[int, ...]] = {}
    for parameter in parameters(tiny_config(changes)):
        if parameter.expert == "visual":
            assert not parameter.qwen
            continue
        assert parameter.qwen not in found
        rows = sum(shape[0] for shape in parameter.parts.values())
        found[parameter.qwen] = (rows, *parameter.key_shape[1:])
    assert found == {name: tuple(value.shape) for name, value in OriginalQwen().weights.items()}
