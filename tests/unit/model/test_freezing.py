"""Freezing is real, and the text shortcut changes the work, not the gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from mars_megatron.config.schema import FreezeConfig
from mars_megatron.model import freeze
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.samples import I2T, T2I
from tests.support.gradients import gradients, training
from tests.support.tiny import make_batch, randomize, tiny_model

EXPERT_NORMS = {"model.expert_norms": True, "freeze.norms": False}


def with_shortcut(batch: Batch, enabled: bool) -> Batch:
    """The batch with another opinion on whether an image stands before text."""
    return dataclasses.replace(batch, plan=dataclasses.replace(batch.plan, image_before_text=not enabled))


@pytest.mark.parametrize("case", [{}, EXPERT_NORMS], ids=["paper", "expert_norms"])
@pytest.mark.parametrize("loss", ["full", "modality"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_shortcut_gives_the_same_gradients(case: dict[str, Any], loss: str, recompute: str) -> None:
    model = randomize(tiny_model({**case, "loss.vocabulary": loss, "recompute.granularity": recompute})).train()
    with_grad = []
    for layer in model.decoder.layers:
        layer.mlp.text.register_forward_pre_hook(lambda *_: with_grad.append(torch.is_grad_enabled()))
    batch = make_batch([T2I, T2I, T2I])
    assert not batch.plan.image_before_text
    losses, got = gradients(model, batch)
    assert with_grad and not any(with_grad), "the shortcut was not taken"
    with_grad.clear()
    expected_losses, expected = gradients(model, with_shortcut(batch, False))
    assert with_grad[-1], "the shortcut was not switched off"
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=1e-6)
    trained = [name for name in expected if ".visual." in name]
    assert trained == [name for name, value in expected.items() if value is not None]
    for name in trained:
        scale = float(expected[name].abs().max())
        assert scale > 0, name
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6 * scale, msg=name)


@pytest.mark.parametrize("case", [{"freeze.norms": False}, {"freeze.text": False}], ids=["norms", "text"])
def test_no_shortcut_where_text_rows_are_trained(case: dict[str, Any]) -> None:
    model = randomize(tiny_model(case)).train()
    batch = make_batch([T2I, T2I])
    _, got = gradients(model, batch)
    _, expected = gradients(model, with_shortcut(batch, False))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(got[name], expected[name]), name
    # Text keys and values are upstream of the image, so what makes them is trained by its loss.
    trained_at_text = "input_norm.shared.weight" if "freeze.norms" in case else "attention.linear_qkv.text.weight"
    assert expected[f"decoder.layers.0.{trained_at_text}"].abs().max() > 0


def test_captions_train_the_visual_experts_through_the_frozen_text_experts() -> None:
    model = randomize(tiny_model()).train()
    batch = make_batch([I2T, I2T])
    assert batch.plan.image_before_text
    # Of the losses keep those at text rows: the first word is predicted at the end of the image, a visual row.
    at_text = batch.loss_rows < batch.plan.padded_text
    assert 0 < at_text.sum() < len(at_text) == batch.num_text_targets
    kept = {"loss_rows": batch.loss_rows[at_text], "targets": batch.targets[at_text]}
    batch = dataclasses.replace(batch, **kept, num_text_targets=int(at_text.sum()))
    _, got = gradients(model, batch)
    _, detached = gradients(model, with_shortcut(batch, True))
    upstream = [
        "embedding.visual.weight",
        "decoder.layers.0.attention.linear_qkv.visual.weight",
        "decoder.layers.0.attention.linear_proj.visual.weight",
        "decoder.layers.0.mlp.visual.linear_fc1.weight",
        "decoder.layers.0.mlp.visual.linear_fc2.weight",
        "decoder.layers.1.attention.linear_qkv.visual.weight",
    ]
    for name in upstream:
        assert got[name].abs().max() > 1e-4, name
        assert detached[name] is None or (detached[name] == 0).all(), f"{name}: detaching would lose its gradient"
    for behind in ("mlp.visual.linear_fc1", "attention.linear_proj.visual"):
        name = f"decoder.layers.1.{behind}.weight"
        assert got[name] is None or (got[name] == 0).all(), f"{name} is behind all text"


def names_of(*groups: str) -> set[str]:
    """Parameters of a model with shared norms and projection, by the group that freezing treats alike."""
    found = set()
    for group in groups:
        for number in range(2):
            layer = f"decoder.layers.{number}"
            if group == "norms":
                found |= {f"{layer}.{norm}.shared.weight" for norm in ("input_norm", "pre_mlp_norm")}
            elif group == "projection":
                found.add(f"{layer}.attention.linear_proj.shared.weight")
            else:
                found |= {f"{layer}.attention.linear_qkv.{group}.{kind}" for kind in ("weight", "bias")}
                found |= {f"{layer}.mlp.{group}.linear_{fc}.weight" for fc in ("fc1", "fc2")}
        if group == "norms":
            found.add("final_norm.shared.weight")
        elif group != "projection":
            found |= {f"{table}.{group}.weight" for table in ("embedding", "head")}
    return found


@pytest.mark.parametrize(
    ("text", "visual", "norms", "trained"),
    [
        (True, False, True, ["visual"]),
        (True, False, False, ["visual", "norms"]),
        (False, False, True, ["visual", "text", "projection"]),
        (False, False, False, ["visual", "text", "projection", "norms"]),
        (False, True, True, ["text", "projection"]),
        (True, True, False, ["norms"]),
    ],
)
def test_what_is_frozen(text: bool, visual: bool, norms: bool, trained: list[str]) -> None:
    freeze = {"freeze.text": text, "freeze.visual": visual, "freeze.norms": norms}
    model = tiny_model({**freeze, "model.expert_output_projection": False})
    names = {name for name, _ in model.named_parameters()}
    assert names == names_of("visual", "text", "projection", "norms")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == names_of(*trained)


@pytest.mark.parametrize("inner", ["visual", "text", "norm", "shared"])
def test_a_parameter_belongs_to_the_expert_it_lies_in_whatever_it_is_called(inner: str) -> None:
    model = tiny_model({"model.expert_output_projection": False})
    attention = model.decoder.layers[0].attention
    experts = {"text": attention.linear_qkv.text, "visual": attention.linear_qkv.visual}
    experts["shared"] = attention.linear_proj.shared
    for expert in experts.values():
        expert.add_module(inner, nn.Linear(2, 2))
    freeze(model, FreezeConfig(text=True, visual=False, norms=False))
    trained = {name: getattr(expert, inner).weight.requires_grad for name, expert in experts.items()}
    assert trained == {"text": False, "visual": True, "shared": False}


@pytest.mark.parametrize("norms", [True, False])
def test_norms_of_an_expert_follow_it(norms: bool) -> None:
    model = tiny_model({"model.expert_norms": True, "freeze.norms": norms})
    for name, parameter in model.named_parameters():
        assert "shared" not in name
        assert parameter.requires_grad == ("visual" in name.split(".")), name


FREEZES = {
    "paper": {},
    "plain_optimizer": {"parallel.distributed_optimizer": False},
    "norms_trained": {"freeze.norms": False},
    "text_trained": {"freeze.text": False, "freeze.visual": True},
    "bf16": {"training.precision": "bf16"},
}


@pytest.mark.parametrize("case", FREEZES)
def test_frozen_parameters_stay_bitwise_and_the_others_move(case: str) -> None:
    # Without weight decay: only gradients move anything.
    model, _, _, step = training({**FREEZES[case], "optimizer.weight_decay": 0.0})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    results = [step() for _ in range(3)]
    assert all(result.grad_norm > 0 for result in results)
    assert results[0].loss != results[1].loss != results[2].loss
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert not torch.equal(parameter, before[name]), f"{name} is trained"
        else:
            assert parameter.grad is None and torch.equal(parameter, before[name]), f"{name} is frozen"


@pytest.mark.parametrize("case", FREEZES)
def test_buffers_and_state_hold_the_trained_parameters_alone(case: str) -> None:
    model, (wrapped,), optimizer, step = training(FREEZES[case])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert trained and frozen
    assert all(hasattr(parameter, "main_grad") for parameter in trained)
    assert not any(hasattr(parameter, "main_grad") for parameter in frozen)
    places = {parameter: place for buffer in wrapped.buffers for parameter, place in buffer.param_index_map.items()}
    assert {id(parameter) for parameter in places} == {id(parameter) for parameter in trained}
    num_trained = sum(parameter.numel() for parameter in trained)
    assert sum(end - start for start, end, _ in places.values()) == num_trained
    # megatron-core aligns each parameter to 64 elements and the whole to 128: no room for a frozen one is hidden there.
    alignment = 64 * len(trained) + 128
    assert alignment < min(sum(parameter.numel() for parameter in frozen), num_trained)
    assert sum(buffer.numel for buffer in wrapped.buffers) <= num_trained + alignment

    step()
    optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sum(parameter.numel() for parameter in optimized) == num_trained
    (inner,) = optimizer.chained_optimizers if hasattr(optimizer, "chained_optimizers") else [optimizer]
    state = inner.optimizer.state
    for moment in ("exp_avg", "exp_avg_sq"):
        assert sum(entry[moment].numel() for entry in state.values()) == num_trained
        assert all(entry[moment].dtype == torch.float32 for entry in state.values())
