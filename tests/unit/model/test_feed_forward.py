"""Several FFN experts of a modality behind a router, against their equations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mars_megatron.model import MARSModel
from mars_megatron.model.experts import Rows, split_rows
from mars_megatron.model.feed_forward import expert_parameters
from mars_megatron.model.initialization import start_from_language_model
from mars_megatron.sequence.batch import Batch, collate
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY
from mars_megatron.training.expert_report import expert_report
from tests.support.tiny import (
    BASE,
    MIXED,
    VOCABULARY,
    make_batch,
    make_samples,
    one_rank,
    randomize,
    tiny_config,
    tiny_model,
)

ROUTED = {"experts.visual": 4}
TOP_2 = {"experts.text": 2, "experts.visual": 4, "router.top_k": 2}
CONDITIONED = {"experts.visual": 4, "router.condition": "text"}


def rows_of(batch: Batch, requires_grad: bool = False) -> Rows:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(batch.plan.num_rows, 1, BASE.model.hidden_size, generator=generator)
    return split_rows(hidden.requires_grad_(requires_grad), batch.plan.padded_text, True)


def swiglu(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    gate, up = (x @ weights["linear_fc1.weight"].T).chunk(2, -1)
    return (F.silu(gate) * up) @ weights["linear_fc2.weight"].T


def reference(experts: torch.nn.Module, x: Tensor, condition: Tensor | None, top_k: int) -> Tensor:
    """[tokens, hidden] -> the same, token by token."""
    logits = x @ experts.router.weight.T
    if condition is not None:
        logits = logits + condition @ experts.router.condition_weight.T
    every = [swiglu(x, weights) for _, weights in expert_parameters(experts)]
    out = []
    for token in range(len(x)):
        best = logits[token].topk(top_k).indices
        if top_k == 1:
            weights = logits[token].softmax(0)[best] * len(every)
        else:
            weights = logits[token][best].softmax(0)
        out.append(sum(weight * every[int(expert)][token] for weight, expert in zip(weights, best, strict=True)))
    return torch.stack(out)


def text_means(rows: Rows, batch: Batch) -> Tensor:
    """[visual tokens, hidden]: mean of the last block of text before each, from the definition."""
    plan = batch.plan
    means = []
    for start, end in zip(plan.cu_seqlens.tolist(), plan.cu_seqlens[1:].tolist(), strict=False):
        block: list[Tensor] = []
        after_visual = True
        for row in plan.sequence_to_sorted[start:end].tolist():
            if row < plan.padded_text:
                block = [rows.text[row, 0]] if after_visual else [*block, rows.text[row, 0]]
                after_visual = False
            else:
                means.append((row, torch.stack(block).mean(0) if block else torch.zeros(BASE.model.hidden_size)))
                after_visual = True
    return torch.stack([mean for _, mean in sorted(means, key=lambda item: item[0])])


@pytest.mark.parametrize("settings", [ROUTED, TOP_2, CONDITIONED], ids=["top 1", "text too, top 2", "conditioned"])
def test_equals_the_equations_forward_and_backward(settings: dict[str, Any]) -> None:
    batch = make_batch(MIXED, row_multiple=4)
    # Without auxiliary losses, which act in the backward alone.
    model = randomize(tiny_model({**settings, "router.balance_loss": 0, "router.z_loss": 0})).train()
    ffn, plan, top_k = model.decoder.layers[0].mlp, batch.plan, settings.get("router.top_k", 1)
    got_rows, expected_rows = rows_of(batch, True), rows_of(batch, True)
    got = ffn(got_rows, plan)
    got_parts = got.text[: plan.num_text, 0], got.visual[: plan.num_visual, 0]

    text, visual = expected_rows.text[: plan.num_text, 0], expected_rows.visual[: plan.num_visual, 0]
    condition = text_means(expected_rows, batch) if settings is CONDITIONED else None
    if settings is TOP_2:
        expected_text = reference(ffn.text, text, None, top_k)
    else:
        expected_text = swiglu(text, dict(ffn.text.named_parameters()))
    expected_parts = expected_text, reference(ffn.visual, visual, condition, top_k)
    parameters = [parameter for parameter in ffn.parameters() if parameter.requires_grad]
    for got_part, expected_part in zip(got_parts, expected_parts, strict=True):
        torch.testing.assert_close(got_part, expected_part, rtol=1e-4, atol=1e-5)
    weights = torch.randn(BASE.model.hidden_size, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad(
            sum((part * weights).sum() for part in parts), [*parameters, rows.visual, rows.text], allow_unused=True
        )
        for parts, rows in ((got_parts, got_rows), (expected_parts, expected_rows))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_auxiliary_losses_equal_their_formulas() -> None:
    """Load balancing: N sum f_i P_i (arXiv 2101.03961); z-loss: mean of logsumexp^2 (arXiv 2202.08906)."""
    batch = make_batch(MIXED, row_multiple=4)
    model = randomize(tiny_model({**ROUTED, "router.balance_loss": 0.3, "router.z_loss": 0.2})).train()
    experts, plan = model.decoder.layers[0].mlp.visual, batch.plan
    weight = experts.router.weight
    hidden = rows_of(batch).visual
    output = experts(hidden, plan.num_visual, plan.num_visual, None, True)
    (got,) = torch.autograd.grad(output.sum() * 0, weight)  # what remains is the auxiliary losses' gradient

    logits = hidden[: plan.num_visual, 0] @ weight.T
    share = F.one_hot(logits.argmax(-1), 4).float().mean(0)
    balance = 4 * (share * logits.softmax(-1).mean(0)).sum()
    z_loss = logits.logsumexp(-1).square().mean()
    (expected,) = torch.autograd.grad(plan.num_visual * (0.3 * balance + 0.2 * z_loss), weight)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    torch.testing.assert_close(experts.router.load, share.double() * plan.num_visual)
    means = experts.router.losses.float() / plan.num_visual
    torch.testing.assert_close(means, torch.stack((balance, z_loss)).detach())


@pytest.mark.parametrize("tasks", [[TEXT_ONLY, TEXT_ONLY], [T2I, T2I], MIXED], ids=["text only", "t2i", "mixed"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_every_expert_gets_a_gradient_whatever_the_batch(tasks: list[int], recompute: str) -> None:
    model = randomize(tiny_model({**CONDITIONED, "recompute.granularity": recompute})).train()
    model(make_batch(tasks)).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("tasks", [[I2T, I2T], [T2I, T2I]], ids=["captions", "images"])
def test_loads_are_counted_once_also_under_recompute(tasks: list[int]) -> None:
    reports = []
    for recompute in ("none", "full"):
        settings = {**ROUTED, "experts.text": 2, "recompute.granularity": recompute}
        model = randomize(tiny_model(settings)).train()
        batch = make_batch(tasks)
        model(batch).sum().backward()
        with torch.no_grad():
            model.eval()(batch)  # an evaluation counts nothing
        for modality, number in (("text", batch.plan.num_text), ("visual", batch.plan.num_visual)):
            loads = getattr(model.decoder.layers[0].mlp, modality).router.load
            assert loads.sum() == number, (modality, recompute)
        reports.append(expert_report([model], tiny_config(settings)))
        assert expert_report([model], tiny_config(settings))["visual_expert_load"] is None, "nothing since"
    assert reports[0] == reports[1]
    report = reports[0]
    assert [len(layer) for layer in report["visual_expert_load"]] == [4] * BASE.model.num_layers
    assert all(sum(layer) == pytest.approx(1) for layer in report["visual_expert_load"] + report["text_expert_load"])
    assert report["visual_expert_load_max"] == 4 * max(max(layer) for layer in report["visual_expert_load"])
    assert report["visual_balance_loss"] > 0 and report["text_router_z_loss"] > 0


def test_text_behind_an_image_does_not_reach_its_router() -> None:
    """Causality: the caption of a captioning sample must not change the image's states."""
    model = randomize(tiny_model(CONDITIONED)).eval()
    first, second = make_samples([I2T], 0), make_samples([I2T], 1)
    image = first[0][0][:6]
    states = []
    for _, (inputs, targets, mask) in enumerate((first[0], second[0])):
        inputs = inputs.copy()
        inputs[:6] = image
        batch = collate([(inputs, targets, mask)], VOCABULARY)
        captured: list[Tensor] = []
        hook = model.decoder.register_forward_hook(lambda _m, _i, output, captured=captured: captured.append(output))
        with torch.no_grad():
            model(batch)
        hook.remove()
        states.append(captured[0][batch.plan.padded_text :])
    torch.testing.assert_close(states[0], states[1])


def test_the_caption_in_front_of_an_image_reaches_its_router() -> None:
    batch = make_batch([T2I])
    rows = rows_of(batch)
    ffn = randomize(tiny_model(CONDITIONED)).eval().decoder.layers[0].mlp
    other = rows.with_parts(rows.text * -2, rows.visual)
    assert not torch.equal(ffn(rows, batch.plan).visual, ffn(other, batch.plan).visual)
    unconditioned = randomize(tiny_model(ROUTED)).eval().decoder.layers[0].mlp
    assert torch.equal(unconditioned(rows, batch.plan).visual, unconditioned(other, batch.plan).visual)


def test_packed_samples_do_not_mix() -> None:
    model = randomize(tiny_model(CONDITIONED)).eval()
    samples = make_samples(MIXED)
    with torch.no_grad():
        together = model(collate(samples, VOCABULARY))
        alone = [model(collate([sample], VOCABULARY)) for sample in samples]
    torch.testing.assert_close(together.sum(), torch.cat(alone).sum(), rtol=1e-4, atol=1e-4)


def _dense_weights(model: MARSModel) -> list[dict[str, Tensor]]:
    return [dict(layer.mlp.text.named_parameters()) for layer in model.decoder.layers]


@pytest.mark.parametrize("settings", [ROUTED, {"experts.text": 2, "experts.visual": 4}], ids=["one text", "two texts"])
def test_visual_experts_start_as_copies(settings: dict[str, Any]) -> None:
    drawn = tiny_model(settings)
    loaded = randomize(tiny_model(settings))
    before = {name: value.clone() for name, value in loaded.named_parameters() if ".visual." not in name}
    start_from_language_model(loaded, tiny_config(settings), VOCABULARY, one_rank())
    for model in (drawn, loaded):
        for layer in model.decoder.layers:
            texts, visuals = expert_parameters(layer.mlp.text), expert_parameters(layer.mlp.visual)
            assert [number for number, _ in visuals] == [0, 1, 2, 3]
            for number, weights in visuals:
                source = texts[number * len(texts) // 4][1]
                assert all(torch.equal(weights[name], source[name]) for name in source)
            assert len(texts) == 1 or not torch.equal(
                texts[0][1]["linear_fc1.weight"], texts[1][1]["linear_fc1.weight"]
            )
    for name, value in before.items():
        assert torch.equal(value, loaded.get_parameter(name)), f"{name} is the language model's"
    routers = [dict(model.named_parameters())["decoder.layers.0.mlp.visual.router.weight"] for model in (drawn, loaded)]
    assert torch.equal(*routers), "both are drawn from the seed"


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_drawn_model_starts_as_the_one_with_a_single_expert(top_k: int) -> None:
    dense, routed = tiny_model(), tiny_model({**CONDITIONED, "router.top_k": top_k})
    batch = make_batch(MIXED)
    with torch.no_grad():
        expected, got = dense.eval()(batch), routed.eval()(batch)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    assert top_k == 2 or not torch.equal(got, expected)


def test_a_frozen_router_trains_nothing() -> None:
    """The text router is frozen; its auxiliary losses must not reach the visual experts of a captioning sample."""
    batch, gradients = make_batch([I2T, I2T]), []
    for factor in (0.0, 1.0):
        settings = {"experts.text": 2, "experts.visual": 4, "router.balance_loss": factor, "router.z_loss": factor}
        model = randomize(tiny_model(settings)).train()
        with torch.no_grad():
            for layer in model.decoder.layers:
                layer.mlp.visual.router.weight.requires_grad_(False)
        model(batch).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_frozen_and_trained_parts() -> None:
    model = tiny_model({**CONDITIONED, "experts.text": 2})
    for name, parameter in model.named_parameters():
        if ".mlp." in name:
            assert parameter.requires_grad == (".visual." in name), name


def test_a_plan_without_peers_is_refused_under_expert_parallelism() -> None:
    """The split sizes come from the plan, so a plan made for one rank must not pass silently."""
    plan = make_batch(MIXED).plan
    with pytest.raises(ValueError, match="no expert_peers"):
        plan.peer_splits(0)
    peers = dataclasses.replace(plan, expert_peers=((4, 8), (6, 2)))
    assert peers.peer_splits(0, 2) == [2, 2, 3, 3] and peers.peer_splits(1) == [8, 2]
