"""The text expert is a Qwen: with the weights of one, text alone gives the same logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from mars_megatron.data.samples import TEXT_ONLY
from mars_megatron.model import MARSModel
from tests.unit.model.tiny import BASE, VOCABULARY, make_batch, make_samples, randomize, tiny_model

SHAPE = BASE.model
HEAD_DIM = SHAPE.hidden_size // SHAPE.num_attention_heads


def qwen(num_groups: int) -> Qwen2ForCausalLM:
    """A random model of the shape of the tests' models, its biases and norms random too."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY.text_size,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.ffn_hidden_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_attention_heads,
        num_key_value_heads=num_groups,
        rms_norm_eps=SHAPE.norm_eps,
        rope_theta=SHAPE.rope_base,
        initializer_range=0.3,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def joined_qkv(query: Tensor, key: Tensor, value: Tensor, num_groups: int) -> Tensor:
    """Separate projections -> for each group its queries, its key and its value."""
    queries = query.chunk(num_groups)
    keys, values = key.split(HEAD_DIM), value.split(HEAD_DIM)
    return torch.cat([part for group in zip(queries, keys, values, strict=True) for part in group])


@torch.no_grad()
def copy_text_expert(source: Qwen2ForCausalLM, model: MARSModel, num_groups: int) -> None:
    """Fill the text experts, the text tables and the norms."""
    theirs = source.state_dict()
    mine = {"embedding.text.weight": theirs["model.embed_tokens.weight"], "head.text.weight": theirs["lm_head.weight"]}
    mine["final_norm.shared.weight"] = theirs["model.norm.weight"]
    for number in range(SHAPE.num_layers):
        old, new = f"model.layers.{number}", f"decoder.layers.{number}"
        for kind in ("weight", "bias"):
            parts = [theirs[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            mine[f"{new}.attention.linear_qkv.text.{kind}"] = joined_qkv(*parts, num_groups)
        mine[f"{new}.attention.linear_proj.text.weight"] = theirs[f"{old}.self_attn.o_proj.weight"]
        fc1 = [theirs[f"{old}.mlp.{part}_proj.weight"] for part in ("gate", "up")]
        mine[f"{new}.mlp.text.linear_fc1.weight"] = torch.cat(fc1)
        mine[f"{new}.mlp.text.linear_fc2.weight"] = theirs[f"{old}.mlp.down_proj.weight"]
        mine[f"{new}.input_norm.shared.weight"] = theirs[f"{old}.input_layernorm.weight"]
        mine[f"{new}.pre_mlp_norm.shared.weight"] = theirs[f"{old}.post_attention_layernorm.weight"]
    parameters = dict(model.named_parameters())
    assert set(mine) == {name for name in parameters if ".visual." not in name}
    for name, value in mine.items():
        parameters[name][: len(value)] = value  # the tables have padding rows behind


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_text_logits_equal_qwen(num_groups: int) -> None:
    source = qwen(num_groups)
    model = randomize(tiny_model({"model.num_query_groups": num_groups}))
    copy_text_expert(source, model, num_groups)
    tasks = [TEXT_ONLY] * 4
    with torch.no_grad():
        logits = model(make_batch(tasks), return_logits=True).cpu()
        expected = [
            source(torch.from_numpy(ids)[None]).logits[0, torch.from_numpy(mask)]
            for ids, _, mask in make_samples(tasks)
        ]
    joined = torch.cat(expected)
    assert joined.std() > 0.5, "logits must differ for this to test anything"
    torch.testing.assert_close(logits[:, : VOCABULARY.text_size], joined, rtol=2e-5, atol=2e-5)
