"""The text expert is a Qwen2, Qwen3 or Llama: with the weights of one, text alone gives the same logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mars_megatron.model import MARSModel
from mars_megatron.sequence.samples import TEXT_ONLY
from tests.support.tiny import BASE, VOCABULARY, make_batch, make_samples, randomize, tiny_model

SHAPE = BASE.model


class Family(NamedTuple):
    """A kind of language model.

    Attributes:
        config: Its configuration's class.
        model: Its model's class.
        settings: What its configuration has beside the shape.
        overrides: The same for ours.
    """

    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    settings: dict[str, Any]
    overrides: dict[str, Any]


# Heads wider than hidden_size / heads, so that there are frequencies in all three bands of llama3's wavelengths.
HEAD_DIM = 12
LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 64}
FAMILIES = {
    "qwen2": Family(Qwen2Config, Qwen2ForCausalLM, {}, {}),
    "qwen3": Family(
        Qwen3Config,
        Qwen3ForCausalLM,
        {"head_dim": HEAD_DIM, "attention_bias": False},
        {"model.head_dim": HEAD_DIM, "model.qkv_bias": False, "model.qk_norm": True},
    ),
    "llama": Family(
        LlamaConfig,
        LlamaForCausalLM,
        {
            "head_dim": HEAD_DIM,
            "rope_parameters": {
                **{key: value for key, value in LLAMA3.items() if "factor" in key},
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "original_max_position_embeddings": LLAMA3["original_context"],
            },
        },
        {
            "model.head_dim": HEAD_DIM,
            "model.qkv_bias": False,
            "model.rope_base": 100.0,
            **{f"model.rope_scaling.{key}": value for key, value in LLAMA3.items()},
        },
    ),
}


def language_model(family: Family, num_groups: int) -> PreTrainedModel:
    """A random model of the shape of the tests' models, its biases and norms random too."""
    torch.manual_seed(0)
    settings = {"rope_theta": SHAPE.rope_base, **family.settings}
    config = family.config(
        vocab_size=VOCABULARY.text_size,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.ffn_hidden_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_attention_heads,
        num_key_value_heads=num_groups,
        rms_norm_eps=SHAPE.norm_eps,
        initializer_range=0.3,
        tie_word_embeddings=False,
        attn_implementation="eager",
        **settings,
    )
    model = family.model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def joined_qkv(query: Tensor, key: Tensor, value: Tensor, num_groups: int) -> Tensor:
    """Separate projections -> for each group its queries, its key and its value."""
    queries, keys, values = (part.chunk(num_groups) for part in (query, key, value))
    return torch.cat([part for group in zip(queries, keys, values, strict=True) for part in group])


@torch.no_grad()
def copy_text_expert(source: PreTrainedModel, model: MARSModel, num_groups: int) -> None:
    """Fill the text experts, the text tables and the norms; asserts that all of both models is used."""
    theirs = source.state_dict()
    mine = {
        "embedding.text.weight": theirs.pop("model.embed_tokens.weight"),
        "head.text.weight": theirs.pop("lm_head.weight"),
        "final_norm.shared.weight": theirs.pop("model.norm.weight"),
    }
    for number in range(SHAPE.num_layers):
        old, new = f"model.layers.{number}", f"decoder.layers.{number}"
        for kind in ("weight", "bias"):
            if f"{old}.self_attn.q_proj.{kind}" in theirs:
                parts = [theirs.pop(f"{old}.self_attn.{part}_proj.{kind}") for part in "qkv"]
                mine[f"{new}.attention.linear_qkv.text.{kind}"] = joined_qkv(*parts, num_groups)
        for part in "qk":
            if f"{old}.self_attn.{part}_norm.weight" in theirs:
                norm = theirs.pop(f"{old}.self_attn.{part}_norm.weight")
                mine[f"{new}.attention.qk_norm.text.{part}_layernorm.weight"] = norm
        mine[f"{new}.attention.linear_proj.text.weight"] = theirs.pop(f"{old}.self_attn.o_proj.weight")
        fc1 = [theirs.pop(f"{old}.mlp.{part}_proj.weight") for part in ("gate", "up")]
        mine[f"{new}.mlp.text.linear_fc1.weight"] = torch.cat(fc1)
        mine[f"{new}.mlp.text.linear_fc2.weight"] = theirs.pop(f"{old}.mlp.down_proj.weight")
        mine[f"{new}.input_norm.shared.weight"] = theirs.pop(f"{old}.input_layernorm.weight")
        mine[f"{new}.pre_mlp_norm.shared.weight"] = theirs.pop(f"{old}.post_attention_layernorm.weight")
    assert not theirs
    parameters = dict(model.named_parameters())
    assert set(mine) == {name for name in parameters if ".visual." not in name}
    for name, value in mine.items():
        parameters[name][: len(value)] = value  # the tables have padding rows behind


def text_logits(source: PreTrainedModel, overrides: dict[str, Any], num_groups: int) -> Tensor:
    """What our model gives for the tests' texts with the weights of `source`."""
    model = randomize(tiny_model({"model.num_query_groups": num_groups, **overrides}))
    copy_text_expert(source, model, num_groups)
    with torch.no_grad():
        logits = model(make_batch([TEXT_ONLY] * 4), return_logits=True).cpu()
    return logits[:, : VOCABULARY.text_size]


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_text_logits_equal_those_of_the_language_model(name: str, num_groups: int) -> None:
    family = FAMILIES[name]
    source = language_model(family, num_groups)
    with torch.no_grad():
        expected = [
            source(torch.from_numpy(ids)[None]).logits[0, torch.from_numpy(mask)]
            for ids, _, mask in make_samples([TEXT_ONLY] * 4)
        ]
    joined = torch.cat(expected)
    assert joined.std() > 0.5, "logits must differ for this to test anything"
    torch.testing.assert_close(text_logits(source, family.overrides, num_groups), joined, rtol=2e-5, atol=2e-5)


def test_the_scaling_of_the_rope_shows_in_the_logits() -> None:
    family = FAMILIES["llama"]
    source = language_model(family, 2)
    plain = {key: value for key, value in family.overrides.items() if "rope_scaling" not in key}
    assert (text_logits(source, plain, 2) - text_logits(source, family.overrides, 2)).abs().max() > 1e-2
