"""Initial values: random and reproducible, or a language model's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mars_megatron.model import MARSModel
from mars_megatron.model.initialization import start_from_language_model
from tests.support.tiny import BASE, VOCABULARY, one_rank, randomize, tiny_config, tiny_model


def values(model: MARSModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    first = values(tiny_model({"training.seed": 5}))
    torch.manual_seed(2)
    again, other = values(tiny_model({"training.seed": 5})), values(tiny_model({"training.seed": 6}))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        if "norm" not in name and not name.endswith("bias"):
            assert not torch.equal(value, other[name]), name


def test_a_layer_does_not_depend_on_the_depth() -> None:
    shallow, deep = values(tiny_model({"model.num_layers": 1})), values(tiny_model({"model.num_layers": 2}))
    name = "decoder.layers.0.attention.linear_qkv.text.weight"
    assert torch.equal(shallow[name], deep[name])
    assert not torch.equal(deep[name], deep[name.replace("layers.0", "layers.1")])


def test_visual_experts_are_drawn_as_copies_of_the_text_experts() -> None:
    model = values(tiny_model({"model.expert_norms": True, "model.qk_norm": True}))
    experts = [name for name in model if name.startswith("decoder.") and ".visual." in name]
    # Per layer: two norms, those of queries and keys, weight and bias of qkv, output projection, two of the FFN.
    assert len(experts) == 9 * BASE.model.num_layers
    for name in experts:
        assert torch.equal(model[name], model[name.replace(".visual.", ".text.")]), name
    # The tables hold different things: their rows must not begin alike.
    rows = min(VOCABULARY.padded_text_size, VOCABULARY.padded_image_size)
    for table in ("embedding", "head"):
        assert not torch.equal(model[f"{table}.text.weight"][:rows], model[f"{table}.visual.weight"][:rows])
    assert not torch.equal(model["embedding.text.weight"], model["head.text.weight"])


@pytest.mark.parametrize(("embedding_std", "expected"), [(0.0, 0.02), (0.7, 0.7)])
def test_scales(embedding_std: float, expected: float) -> None:
    wide = {"model.qk_norm": True, "model.hidden_size": 64, "model.ffn_hidden_size": 64, "vocabulary.text_size": 200}
    model = values(tiny_model({**wide, "model.init_std": 0.02, "model.embedding_init_std": embedding_std}))
    small = 0.02 / (2 * BASE.model.num_layers) ** 0.5
    scales = {
        "embedding.text.weight": expected,
        "embedding.visual.weight": expected,
        "head.text.weight": 0.02,
        "decoder.layers.1.attention.linear_qkv.visual.weight": 0.02,
        "decoder.layers.1.mlp.text.linear_fc1.weight": 0.02,
        "decoder.layers.0.attention.linear_proj.text.weight": small,
        "decoder.layers.1.mlp.visual.linear_fc2.weight": small,
    }
    for name, scale in scales.items():
        assert float(model[name].std()) == pytest.approx(scale, rel=0.1), name
        assert abs(float(model[name].mean())) < 0.1 * scale, name
    for name, value in model.items():
        if "norm" in name:
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
    assert {name.split(".", 3)[-1] for name in model if "attention" in name and name.endswith("bias")} == {
        f"attention.linear_qkv.{expert}.bias" for expert in ("text", "visual")
    }
    assert sum("qk_norm" in name for name in model) == 4 * BASE.model.num_layers


@pytest.mark.parametrize("expert_norms", [False, True])
def test_start_from_a_language_model(expert_norms: bool) -> None:
    model = randomize(tiny_model({"model.expert_norms": expert_norms, "model.qk_norm": True}))
    with torch.no_grad():
        for table in (model.embedding, model.head):
            table.text.weight[VOCABULARY.text_size :] = 1e6  # padding must not enter the mean
    before = values(model)
    start_from_language_model(model, BASE, VOCABULARY, one_rank())
    after = values(model)
    norms = [name for name in after if "final_norm" in name]
    assert norms == [f"final_norm.{expert}.weight" for expert in (("text", "visual") if expert_norms else ("shared",))]
    for name, value in after.items():
        if ".visual." not in name:
            assert torch.equal(value, before[name]), f"{name} is the language model's"
        elif name.startswith(("embedding", "head")):
            text = before[name.replace(".visual.", ".text.")][: VOCABULARY.text_size]
            assert value.shape == (VOCABULARY.padded_image_size, BASE.model.hidden_size)
            torch.testing.assert_close(value, text.mean(0).expand_as(value), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, before[name.replace(".visual.", ".text.")]), name
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "experts",
    [
        {"model.expert_norms": True, "model.qk_norm": True},
        {"experts.visual": 4},
        {"experts.text": 2, "experts.visual": 2},
    ],
)
def test_start_with_random_visual_experts(experts: dict[str, object]) -> None:
    """Each is drawn on its own, on the scale of a fresh model; all else is as with copies."""
    config = tiny_config({**experts, "checkpoint.init_visual": "random"})
    fresh = values(tiny_model(experts))
    model, copied = randomize(tiny_model(experts)), randomize(tiny_model(experts))
    start_from_language_model(model, config, VOCABULARY, one_rank())
    start_from_language_model(copied, tiny_config(experts), VOCABULARY, one_rank())
    after, expected = values(model), values(copied)
    drawn = []
    for name, value in after.items():
        if ".visual." not in name or ".router." in name or name.startswith(("embedding", "head")):
            assert torch.equal(value, expected[name]), name
        elif "norm" in name or name.endswith("bias"):
            assert torch.equal(value, fresh[name]), name
        else:
            # Not the text experts of a language model that began with the same seed either.
            assert not torch.equal(value, fresh[name]), name
            assert float(value.std()) == pytest.approx(float(fresh[name].std()), rel=0.2), name
            drawn.append(value)
    assert len(drawn) >= 4 * BASE.model.num_layers
    for number, value in enumerate(drawn):
        assert not any(value.shape == other.shape and torch.equal(value, other) for other in drawn[:number])
