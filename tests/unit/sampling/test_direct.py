"""Decoding on one rank is the model's own forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune

from mars_megatron.model import KVCache, MARSModel
from mars_megatron.sampling.decoding import Decoder, DecodeStep, inference, pack_samples, sample_lengths
from mars_megatron.sampling.direct import DirectDecoding
from mars_megatron.sequence import TEXT, VISUAL
from tests.support.tiny import VOCABULARY, randomize, tiny_model

BOI, CODE, EOI = VOCABULARY.boi, VOCABULARY.text_size, VOCABULARY.eoi
RAGGED = [[3, 4, 5, BOI], [BOI, CODE + 1, EOI, 7], [9, BOI, CODE + 2, CODE, EOI, 8, 2]]
ALIKE = [[3, 4, BOI], [BOI, CODE, 7]]
ONLY_IMAGES = [[BOI], [BOI]]


def steps(number: int) -> list[tuple[list[int], int]]:
    """(joined ids, new tokens of each sample): visual, three visual, text, and of both modalities."""
    visual = [CODE + n for n in range(number)]
    return [
        (visual, 1),
        ([CODE + n % 13 for n in range(3 * number)], 3),
        ([5 + n for n in range(number)], 1),
        ([CODE + 3 if n % 2 else 6 for n in range(number)], 1),
        (visual[::-1], 1),
    ]


def modality_of(token: int) -> int:
    return VISUAL if token >= CODE else TEXT


def by_model(model: MARSModel, samples: list[list[int]]) -> list[torch.Tensor]:
    """Logits of the prefixes and of every step, by `MARSModel.forward`."""
    cache, prompt = KVCache(len(samples), 20), pack_samples(samples, VOCABULARY)
    found = [model(prompt, cache, return_logits=True)]
    cache.advance(sample_lengths(prompt.plan))
    for ids, new in steps(len(samples)):
        parts = [ids[start : start + new] for start in range(0, len(ids), new)]
        batch = pack_samples(parts, VOCABULARY, num_last=new)
        found.append(model(batch, cache, return_logits=True))
        cache.advance(sample_lengths(batch.plan))
    return found


def directly(model: MARSModel, samples: list[list[int]]) -> list[torch.Tensor]:
    """The same by `DirectDecoding`."""
    direct = DirectDecoding(model, 20)
    cache, prompt = KVCache(len(samples), 20), pack_samples(samples, VOCABULARY)
    found = [direct.forward(prompt, cache)]
    cache.advance(sample_lengths(prompt.plan))
    for ids, new in steps(len(samples)):
        modalities = [modality_of(token) for token in ids]
        if len(set(modalities)) == 1:
            found.append(direct.step(torch.tensor(ids), modalities[0], cache))
        else:
            found.append(direct.forward(DecodeStep.mixed(modalities, VOCABULARY).batch(torch.tensor(ids)), cache))
        cache.advance(torch.full((len(samples),), new))
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "qwen2": {"model.qkv_bias": True, "model.num_query_groups": 4},
    "qwen3": {"model.qk_norm": True, "model.head_dim": 8},
    "llama": {"model.qkv_bias": False, "model.rope_scaling.type": "linear", "model.rope_scaling.factor": 2.0},
    "apart": {"model.expert_norms": True, "model.expert_output_projection": False},
    "shared": {"model.shared_experts": True, "freeze.text": False},
    "bf16": {"training.precision": "bf16"},
}


@pytest.mark.parametrize("samples", [RAGGED, ALIKE, ONLY_IMAGES], ids=["ragged", "alike", "only_images"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_logits_are_those_of_the_model(variant: str, samples: list[list[int]]) -> None:
    model = randomize(tiny_model(VARIANTS[variant]))
    assert DirectDecoding.serves(model)
    with inference(model):
        expected, found = by_model(model, samples), directly(model, samples)
    tolerance = 0.1 if variant == "bf16" else 1e-5
    for step, (want, got) in enumerate(zip(expected, found, strict=True)):
        assert want.shape == got.shape and want.dtype == got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, msg=lambda text, at=step: f"{at}: {text}")
    assert (expected[1][0] - expected[1][1]).abs().max() > 0.1, "samples must differ for this to test anything"


def test_only_one_modality_is_scored_where_asked() -> None:
    model = randomize(tiny_model())
    direct, prompt = DirectDecoding(model, 20), pack_samples(RAGGED, VOCABULARY)
    with inference(model):
        whole = direct.forward(prompt, KVCache(3, 20))
        for modality, columns in ((TEXT, slice(0, CODE)), (VISUAL, slice(CODE, None))):
            torch.testing.assert_close(direct.forward(prompt, KVCache(3, 20), modality), whole[:, columns])
            of_model = model(prompt, KVCache(3, 20), return_logits=True, only=modality)
            torch.testing.assert_close(of_model, whole[:, columns], rtol=1e-5, atol=1e-5)


def test_several_experts_are_left_to_the_model() -> None:
    assert not DirectDecoding.serves(tiny_model({"experts.visual": 4}))


class Doubled(ColumnParallelLinear):
    """A linear that adds something of its own, as an adapter that is a subclass does."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        out, bias = super().forward(*args, **kwargs)
        return out * 2, bias


class Wrapper(nn.Module):
    """What an adapter that wraps a module does; it passes for the module by its attributes."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        if hasattr(inner, "weight"):
            self.weight, self.bias = inner.weight, getattr(inner, "bias", None)

    def forward(self, *args: Any) -> Any:
        out = self.inner(*args)
        return (out[0] * 2, *out[1:]) if isinstance(out, tuple) else out * 2


class Twice(nn.Module):
    """A parametrisation, and a forward in the place of another."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Weight(torch.Tensor):
    """A type of parameter of its own, as quantised weights are."""


def subclassed(linear: nn.Module) -> None:
    linear.__class__ = Doubled


def wrapped(owner: nn.Module, name: str) -> None:
    setattr(owner, name, Wrapper(getattr(owner, name)))


def doubled(_: nn.Module, __: Any, out: Any) -> Any:
    return (out[0] * 2, *out[1:]) if isinstance(out, tuple) else out * 2


def with_own_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda *args: doubled(module, args, forward(*args))  # type: ignore[method-assign]


def with_own_arrangement(core: Any) -> None:
    arrange = core.arrange
    core.arrange = lambda rows, plan: arrange(rows, plan) * 2


def with_other_weight(linear: nn.Module) -> None:
    linear.weight = nn.Parameter(linear.weight.detach().clone().mul_(2).as_subclass(Weight), requires_grad=False)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "subclass_of_the_attentions_linear": lambda model: subclassed(model.decoder.layers[1].attention.linear_qkv.visual),
    "wrapped_projection": lambda model: wrapped(model.decoder.layers[0].attention.linear_proj, "visual"),
    "wrapped_ffn_linear": lambda model: wrapped(model.decoder.layers[0].mlp.text, "linear_fc2"),
    "wrapped_ffn": lambda model: wrapped(model.decoder.layers[1].mlp, "visual"),
    "wrapped_norm": lambda model: wrapped(model.decoder.layers[0].input_norm, "shared"),
    "wrapped_last_norm": lambda model: wrapped(model.final_norm, "shared"),
    "wrapped_head": lambda model: wrapped(model.head, "visual"),
    "wrapped_embedding": lambda model: wrapped(model.embedding, "visual"),
    "wrapped_pair": lambda model: model.decoder.layers[0].mlp.register_forward_hook(
        lambda _, __, rows: rows.with_parts(rows.text * 2, rows.visual * 2)
    ),
    "hook": lambda model: model.decoder.layers[0].attention.linear_proj.text.register_forward_hook(doubled),
    "hook_of_the_model": lambda model: model.register_forward_hook(doubled),
    "hook_before": lambda model: model.decoder.layers[0].mlp.visual.register_forward_pre_hook(
        lambda _, args: (args[0] * 2, *args[1:])
    ),
    "parametrised": lambda model: parametrize.register_parametrization(
        model.decoder.layers[1].attention.linear_qkv.text, "weight", Twice()
    ),
    "pruned": lambda model: prune.random_unstructured(model.decoder.layers[0].mlp.visual.linear_fc1, "weight", 0.5),
    "own_forward": lambda model: with_own_forward(model.decoder.layers[0].attention.linear_proj.visual),
    "own_forward_of_a_table": lambda model: with_own_forward(model.embedding.text),
    "own_method_of_the_attention": lambda model: with_own_arrangement(model.decoder.layers[0].attention.core_attention),
    "other_activation": lambda model: setattr(model.config, "activation_func", F.gelu),
    "other_type_of_weight": lambda model: with_other_weight(model.decoder.layers[0].mlp.text.linear_fc1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_as_it_was_built_is_left_to_the_model(change: str) -> None:
    model = randomize(tiny_model())
    with inference(model):
        unchanged = Decoder(model, VOCABULARY, ALIKE, VISUAL, 2).start()
        CHANGES[change](model)
        assert not DirectDecoding.serves(model)
        decoder = Decoder(model, VOCABULARY, ALIKE, VISUAL, 2)
        found, expected = decoder.start(), model(pack_samples(ALIKE, VOCABULARY), return_logits=True, only=VISUAL)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - unchanged).abs().max() > 1e-3, "the change must tell for this to test anything"


def test_hooks_of_all_modules_are_called() -> None:
    model, called = randomize(tiny_model()), []
    with inference(model), ExitStack() as stack:
        stack.callback(register_module_forward_hook(lambda module, *_: called.append(module)).remove)
        Decoder(model, VOCABULARY, ALIKE, VISUAL, 2).start()
    assert model.decoder.layers[0].attention.linear_proj.text in called
    assert DirectDecoding.serves(model), "the hook is gone"
