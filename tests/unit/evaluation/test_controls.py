"""A tiny model learns to draw what it is told; the controls must then fail, and leave no trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mars_megatron import platform
from mars_megatron.config.schema import (
    ExpertsConfig,
    GenerationConfig,
    ModelConfig,
    RouterConfig,
    RunConfig,
    VocabularyConfig,
)
from mars_megatron.evaluation.prompt_fidelity import expert_pairs, prompt_fidelity, swap_experts, visual_from_text
from mars_megatron.evaluation.text_preservation import changed_frozen_tensors, compare_text, text_logits
from mars_megatron.gallery.prompts import Prompt
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sampling import sample_images
from mars_megatron.sequence.batch import collate
from mars_megatron.sequence.samples import T2I, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary

NUM_LABELS, NUM_CODES, FILLER = 10, 6, 15
CONFIG = RunConfig(
    model=ModelConfig(
        num_layers=2, hidden_size=32, ffn_hidden_size=64, num_attention_heads=4, num_query_groups=2, init_std=0.05
    ),
    vocabulary=VocabularyConfig(text_size=16, codebook_size=3 * NUM_LABELS),
)
VOCABULARY = Vocabulary.from_config(CONFIG)
SETTINGS = GenerationConfig(guidance=2.0)


def new_model() -> MARSModel:
    """The same random model every time, its text experts frozen."""
    platform.initialize("auto")
    (model,) = build_model(CONFIG, initialize_parallel(CONFIG.parallel, 1))
    return model


def train(model: MARSModel, steps: int = 150) -> None:
    """Captions "filler... label" of images that draw all their codes from three of the label."""
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        samples = []
        for label in rng.integers(NUM_LABELS, size=24):
            text = np.array([FILLER] * rng.integers(3) + [label])
            codes = label + NUM_LABELS * rng.integers(3, size=NUM_CODES)
            samples.append(make_sample(T2I, None if rng.random() < 0.1 else text, codes, VOCABULARY, 14))
        loss = model(collate(samples, VOCABULARY).to(platform.device())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def fidelity(model: MARSModel) -> float:
    """Share of images whose codes are mostly of the label asked for."""
    labels = [number % NUM_LABELS for number in range(200)]
    prompts = [[FILLER] * (number % 3) + [label] for number, label in enumerate(labels)]
    codes = sample_images(model, prompts, VOCABULARY, NUM_CODES, SETTINGS)
    seen = (codes % NUM_LABELS).mode(dim=1).values
    return prompt_fidelity([str(label) for label in seen.tolist()], [Prompt("", str(n)) for n in labels]).overall


@pytest.fixture(scope="module")
def trained() -> MARSModel:
    model = new_model()
    train(model)
    return model


def test_controls_fail_where_the_model_succeeds(trained: MARSModel) -> None:
    before = fidelity(trained)
    assert before >= 0.95
    with swap_experts(trained):
        assert fidelity(trained) <= 0.3
    with visual_from_text(trained):
        assert fidelity(trained) <= 0.3
    assert fidelity(trained) == before


@pytest.mark.parametrize("control", [swap_experts, visual_from_text])
def test_controls_replace_all_experts_and_put_them_back(trained: MARSModel, control) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items() if value is not None}
    pairs = expert_pairs(trained)
    assert len(pairs) == 2 * 3  # in each of 2 layers: qkv, projection, FFN
    experts = [(pair.text, pair.visual) for pair in pairs]
    with pytest.raises(RuntimeError, match="stop"), control(trained):
        for pair, (text, visual) in zip(pairs, experts, strict=True):
            assert pair.visual is text and pair.text is (visual if control is swap_experts else text)
        raise RuntimeError("stop")
    for name, value in before.items():
        assert torch.equal(trained.state_dict()[name], value), name


@pytest.mark.parametrize("control", [swap_experts, visual_from_text])
def test_controls_of_routed_experts(control) -> None:
    """Another number of experts on each side, and a router that sees the text, which text rows have not."""
    config = replace(CONFIG, experts=ExpertsConfig(text=2, visual=4), router=RouterConfig(condition="text"))
    platform.initialize("auto")
    (model,) = build_model(config, initialize_parallel(config.parallel, 1))
    train(model, 3)
    prompts = [[FILLER, label] for label in range(NUM_LABELS)]
    before = sample_images(model, prompts, VOCABULARY, NUM_CODES, SETTINGS)
    with control(model):
        assert not torch.equal(sample_images(model, prompts, VOCABULARY, NUM_CODES, SETTINGS), before)
    assert torch.equal(sample_images(model, prompts, VOCABULARY, NUM_CODES, SETTINGS), before)
    # Its language model may have been one with a single visual expert.
    (base,) = build_model(
        replace(config, experts=ExpertsConfig(text=2, visual=2)), initialize_parallel(config.parallel, 1)
    )
    assert changed_frozen_tensors(model, base) == []


@pytest.mark.parametrize("control", [swap_experts, visual_from_text])
def test_controls_need_experts_of_each_modality(control) -> None:
    config = replace(
        CONFIG, model=replace(CONFIG.model, shared_experts=True), freeze=replace(CONFIG.freeze, text=False)
    )
    platform.initialize("auto")
    (model,) = build_model(config, initialize_parallel(config.parallel, 1))
    with pytest.raises(ValueError, match=r"model\.shared_experts is true"), control(model):
        pass


def test_text_is_preserved_by_training(trained: MARSModel) -> None:
    samples = [[1, 2, 3], [FILLER], list(range(16))]
    base = new_model()
    same = compare_text(trained, base, samples, VOCABULARY)
    assert [sample.num_predicted for sample in same] == [2, 0, 15]
    assert all(sample.max_abs_difference == sample.divergence == 0.0 for sample in same)
    assert all(sample.nats == sample.base_nats for sample in same)
    assert changed_frozen_tensors(trained, base) == []

    weight = base.decoder.layers[1].mlp.text.linear_fc2.weight
    with torch.no_grad():
        weight[0, 0] += 1e-3
    assert max(sample.max_abs_difference for sample in compare_text(trained, base, samples, VOCABULARY)) > 0
    assert changed_frozen_tensors(trained, base) == ["decoder.layers.1.mlp.text.linear_fc2.weight"]


def test_what_a_text_costs_a_model(trained: MARSModel) -> None:
    """Against torch's cross entropy and divergence of the same logits."""
    other, ids = new_model(), [3, 1, 4, 1, 5]
    with torch.no_grad():
        other.decoder.layers[1].mlp.text.linear_fc2.weight += 0.1
    ours, theirs = (text_logits(model, [ids], VOCABULARY)[:-1] for model in (trained, other))
    (found,) = compare_text(trained, other, [ids], VOCABULARY)
    following = torch.tensor(ids[1:], device=ours.device)
    assert found.nats == pytest.approx(float(F.cross_entropy(ours, following, reduction="sum")), rel=1e-5)
    assert found.base_nats == pytest.approx(float(F.cross_entropy(theirs, following, reduction="sum")), rel=1e-5)
    divergence = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True)
    assert found.divergence == pytest.approx(float(divergence), rel=1e-3) and found.divergence > 0


def test_nan_is_a_difference(trained: MARSModel) -> None:
    broken = new_model()
    with torch.no_grad():
        broken.embedding.text.weight[3] = float("nan")
    first, second = compare_text(trained, broken, [[3], [1]], VOCABULARY)
    assert np.isnan(first.max_abs_difference) and second.max_abs_difference == 0
