"""The contestants of the step do the same work: what is timed is how, not what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.dense import DenseGPT
from benchmarks.masked import MaskedMARS
from benchmarks.step import StepOptions, build, make_batch

from mars_megatron import platform
from mars_megatron.model import MARSModel, freeze
from mars_megatron.sequence.batch import collate
from mars_megatron.sequence.samples import I2T, T2I
from tests.support import tiny
from tests.support.tiny import MIXED, make_samples, one_rank, randomize, tiny_config, tiny_model

TINY = StepOptions(layers=2, hidden=32, ffn=48, heads=4, tokens=120, image_tokens=16, text_shares=("0.2",))


# What some language models have beside Qwen's shape.
OTHERS = {"model.qk_norm": True, "model.rope_scaling.type": "linear", "model.rope_scaling.factor": 2.0}


def masked_twin(model: MARSModel, overrides: dict[str, Any] | None = None) -> MaskedMARS:
    config = tiny_config(overrides)
    twin = MaskedMARS(config, one_rank())
    twin.load_state_dict(model.state_dict())
    freeze(twin, config.freeze)
    return twin.train()


@pytest.mark.parametrize(
    ("tasks", "overrides"),
    [([T2I, T2I, T2I], {}), ([I2T, I2T], {}), (MIXED, {}), (MIXED, OTHERS)],
    ids=["t2i", "i2t", "mixed", "others"],
)
def test_masked_gives_our_losses_and_gradients(tasks: list[int], overrides: dict[str, Any]) -> None:
    ours = randomize(tiny_model(overrides)).train()
    masked = masked_twin(ours, overrides)
    batch = tiny.make_batch(tasks)
    weights = torch.rand(len(batch.targets), generator=torch.Generator().manual_seed(0)) + 0.5
    losses = []
    for model in (ours, masked):
        losses.append(model(batch))
        (losses[-1] * weights).sum().backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    expected = dict(ours.named_parameters())
    for name, parameter in masked.named_parameters():
        assert parameter.requires_grad == expected[name].requires_grad
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        want = expected[name].grad
        # Ours leaves what nothing reaches untouched; the masked way gives it zeros.
        want = torch.zeros_like(parameter) if want is None else want
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        scale = max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * scale, msg=name)


def test_masked_detaches_nothing() -> None:
    masked = masked_twin(randomize(tiny_model()))
    reached = []
    masked.decoder.layers[1].mlp.text.register_full_backward_hook(lambda *_: reached.append(True))
    masked(tiny.make_batch([T2I, T2I])).sum().backward()
    assert reached


def dense_names(name: str) -> tuple[str, str]:
    """The text and the visual parameter of a `MARSModel` that stand where the dense model has its own."""
    attention, mlp = "self_attention.", "mlp."
    if attention in name:
        head, tail = name.split(attention)
        part, kind = tail.split(".")
        text = f"{head}attention.{part}.text.{kind}"
        if part in ("q_layernorm", "k_layernorm"):
            text = f"{head}attention.qk_norm.text.{tail}"
    elif mlp in name:
        text = name.replace(mlp, "mlp.text.")
    else:
        same = name.replace("input_layernorm.", "input_norm.shared.").replace(
            "pre_mlp_layernorm.", "pre_mlp_norm.shared."
        )
        return (same.replace("decoder.final_layernorm.", "final_norm.shared."),) * 2
    return text, text.replace(".text.", ".visual.")


# The dense model would take the rows that pad a table for words.
UNPADDED = {"vocabulary.text_size": 32, "vocabulary.codebook_size": 10}
TABLES = {"embedding.word_embeddings.weight": "embedding", "output_layer.weight": "head"}


def dense_twin(model: MARSModel, overrides: dict[str, Any]) -> DenseGPT:
    """The dense model with the weights of both experts, which must be equal; asserts that all shapes agree."""
    twin = DenseGPT(tiny_config(overrides), one_rank())
    source = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name in TABLES:
                parts = [source.pop(f"{TABLES[name]}.{expert}.weight") for expert in ("text", "visual")]
                parameter.copy_(torch.cat(parts))
                continue
            names = dense_names(name)
            text, visual = (source[found] for found in names)
            assert parameter.shape == text.shape == visual.shape, name
            visual.copy_(text)
            parameter.copy_(text)
            for found in set(names):
                del source[found]
    assert not source, f"the dense model lacks {list(source)}"
    return twin.train()


@pytest.mark.parametrize("overrides", [UNPADDED, {**UNPADDED, **OTHERS}], ids=["qwen", "others"])
def test_dense_computes_what_two_equal_experts_compute(overrides: dict[str, Any]) -> None:
    ours = randomize(tiny_model(overrides)).train()
    dense = dense_twin(ours, overrides)
    batch = collate(make_samples(MIXED, vocabulary=ours.vocabulary), ours.vocabulary).to(platform.device())
    torch.testing.assert_close(dense(batch), ours(batch), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def contestants():
    return build(TINY)


def test_sizes(contestants) -> None:
    """Dense is one expert, both tables and the norms; masked has our parameters; the same ones are trained."""
    parameters = {name: dict(training.module.named_parameters()) for name, training in contestants.items()}
    sizes = {name: {key: value.numel() for key, value in found.items()} for name, found in parameters.items()}
    trained = {name: {key for key, value in found.items() if value.requires_grad} for name, found in parameters.items()}
    assert sizes["masked"] == sizes["masked_trained"] == sizes["ours"]
    assert trained["masked"] == trained["ours"] == {name for name in sizes["ours"] if ".visual." in name}
    assert trained["masked_trained"] == set(sizes["ours"])
    assert trained["dense"] == set(sizes["dense"])
    text_experts = sum(size for name, size in sizes["ours"].items() if name.startswith("decoder.") and ".text." in name)
    assert text_experts > 0 and sum(sizes["dense"].values()) == sum(sizes["ours"].values()) - text_experts


def test_every_contestant_steps_and_learns(contestants) -> None:
    batch = make_batch("0.2", TINY)
    for name, training in contestants.items():
        first = training.step(batch)
        for _ in range(3):
            last = training.step(batch)
        assert first.grad_norm > 0 and last.loss < first.loss, name
        assert first.num_targets == batch.num_visual_targets


@pytest.mark.parametrize("share", ["0.1", "0.2", "0.5", "0"])
def test_batches_have_the_share_of_text_and_fill_the_budget(share: str) -> None:
    options = StepOptions(tokens=2048)
    plan = make_batch(share, options).plan
    assert plan.num_text / plan.num_tokens == pytest.approx(float(share), abs=0.005)
    assert not plan.image_before_text
    assert options.tokens - plan.num_tokens / plan.num_samples < plan.num_tokens <= options.tokens


@pytest.mark.parametrize(
    ("share", "options", "message"),
    [("1", TINY, "--text-share 1"), ("x", TINY, "--text-share x"), ("0.9", TINY, "--tokens 120")],
)
def test_impossible_batches(share: str, options: StepOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_batch(share, options)
