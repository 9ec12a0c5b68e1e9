"""One set of experts for both modalities: what SemVIE is compared with."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.model import MARSModel
from mars_megatron.model.initialization import start_from_language_model
from mars_megatron.sequence import TEXT, VISUAL
from mars_megatron.sequence.samples import TEXT_ONLY
from tests.support.gradients import gradients, training
from tests.support.tiny import MIXED, VOCABULARY, make_batch, one_rank, randomize, tiny_config, tiny_model

TRAINED = {"freeze.text": False, "freeze.norms": False, "model.qk_norm": True}
SHARED = {**TRAINED, "model.shared_experts": True}


def experts_of(model: MARSModel, modality: str) -> list[str]:
    """Parameters of one modality's experts; those of the tables of ids left out."""
    return [name for name, _ in model.decoder.named_parameters(prefix="decoder") if f".{modality}." in name]


@pytest.mark.parametrize("projection", [True, False])
def test_parameters_have_one_place_and_the_names_of_a_language_model(projection: bool) -> None:
    settings = {"model.expert_output_projection": projection}
    model, semvie = tiny_model({**SHARED, **settings}), tiny_model({**TRAINED, **settings})
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    left_out = set(experts_of(semvie, "visual"))
    assert names == [name for name, _ in semvie.named_parameters() if name not in left_out]
    assert not experts_of(model, "visual") and experts_of(model, "text") == experts_of(semvie, "text")
    for layer in model.decoder.layers:
        assert layer.mlp.of(VISUAL) is layer.mlp.of(TEXT) is layer.mlp.text


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("projection", [True, False])
def test_gradients_are_the_sums_of_both_uses(recompute: str, projection: bool) -> None:
    """Of SemVIE whose visual experts are copies of its text experts, which computes the same."""
    settings = {"recompute.granularity": recompute, "model.expert_output_projection": projection}
    semvie = randomize(tiny_model({**TRAINED, **settings})).train()
    values = semvie.state_dict()
    with torch.no_grad():
        for name in experts_of(semvie, "visual"):
            values[name].copy_(values[name.replace(".visual.", ".text.")])
    shared = tiny_model({**SHARED, **settings}).train()
    shared.load_state_dict({name: values[name] for name in shared.state_dict()})
    batch = make_batch(MIXED)
    expected_losses, apart = gradients(semvie, batch)
    losses, found = gradients(shared, batch)
    assert torch.equal(losses, expected_losses)
    for name, gradient in found.items():
        expected = apart[name]
        if name in experts_of(shared, "text"):
            other = apart[name.replace(".text.", ".visual.")]
            assert min(float(expected.abs().max()), float(other.abs().max())) > 0, name
            expected = expected + other
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6 * scale, msg=name)


def test_starts_from_a_language_model() -> None:
    model = randomize(tiny_model(SHARED))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    start_from_language_model(model, tiny_config(SHARED), VOCABULARY, one_rank())
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert changed == ["embedding.visual.weight", "head.visual.weight"]


@pytest.mark.parametrize("shared", [False, True])
def test_text_logits_drift_where_parameters_are_shared_alone(shared: bool) -> None:
    """After steps on images; SemVIE with its text frozen keeps every bit."""
    model, _, _, step = training(SHARED if shared else {})
    texts = make_batch([TEXT_ONLY] * 3, seed=3)
    model.eval()
    with torch.no_grad():
        before = model(texts, return_logits=True)[:, : VOCABULARY.text_size]
        model.train()
        step()
        model.eval()
        after = model(texts, return_logits=True)[:, : VOCABULARY.text_size]
    assert torch.equal(before, after) != shared
