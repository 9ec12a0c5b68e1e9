"""No layer makes the host wait for the device: nothing that a device computed is read while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.masked import MaskedMARS
from torch import Tensor

from mars_megatron.model import MARSModel, freeze
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY
from mars_megatron.training.objective import NextToken
from tests.support.host_reads import HostRead, NoHostReads
from tests.support.tiny import MIXED, make_batch, one_rank, randomize, tiny_config, tiny_model

BATCHES = {"t2i": [T2I, T2I, T2I], "i2t": [I2T, I2T], "text": [TEXT_ONLY, TEXT_ONLY], "mixed": MIXED}
RECOMPUTE = ["none", "selective", "full"]


def model_of(overrides: dict[str, Any]) -> MARSModel:
    return randomize(tiny_model(overrides)).train()


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("tasks", BATCHES)
def test_no_layer_reads(tasks: str, recompute: str) -> None:
    """Embedding, SemVIE layers, final norm, head and losses, forward and backward.

    `NextToken` stands between them: it tells the device the counts that the host knows, which goes the other way.
    """
    model = model_of({"recompute.granularity": recompute})
    batch = make_batch(BATCHES[tasks])
    with NoHostReads():
        losses = model(batch)
    loss, _, report = NextToken()(batch, losses)
    with NoHostReads():
        loss.backward()
    # The model did run, and its gradients came about.
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert report[4] == batch.plan.num_tokens and torch.isfinite(loss)
    assert "decoder.layers.0.mlp.visual.linear_fc1.weight" in trained or tasks == "text"


@pytest.mark.parametrize(
    "overrides",
    [
        {"freeze.text": False, "freeze.norms": False},
        {"loss.vocabulary": "modality"},
        {"model.expert_norms": True, "model.expert_output_projection": False},
    ],
    ids=["all_trained", "modality", "other_experts"],
)
def test_no_layer_reads_in_other_shapes(overrides: dict[str, Any]) -> None:
    model, batch = model_of(overrides), make_batch(MIXED)
    with NoHostReads():
        model(batch).sum().backward()


def test_logits_and_evaluation_do_not_read() -> None:
    model, batch = model_of({}).eval(), make_batch(MIXED)
    with NoHostReads(), torch.no_grad():
        model(batch)
        model(batch, return_logits=True)


def _mask(x: Tensor) -> Tensor:
    return x[:, 0, 0] > 0


def _boolean_put(x: Tensor) -> None:
    x.detach().clone()[_mask(x)] = x.detach()[:1]


READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0, 0, 0].item(),
    "float": lambda x: float(x.detach()[0, 0, 0]),
    "int": lambda x: int(x[0, 0, 0]),
    "bool": lambda x: bool(_mask(x).any()),
    "index": lambda x: range(x.shape[0])[_mask(x).sum()],
    "format": lambda x: f"{x[0, 0, 0]}",
    "slice": lambda x: x[: _mask(x).sum()],
    "contains": lambda x: 1.0 in x,
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.detach().numpy(),
    "asarray": lambda x: np.asarray(x.detach()),
    "dlpack": lambda x: torch.from_dlpack(x.detach()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to_device": lambda x: x.to(device=torch.device("cpu"), dtype=torch.float64),
    "nonzero": lambda x: _mask(x).nonzero(),
    "where": lambda x: torch.where(_mask(x)),
    "argwhere": lambda x: torch.argwhere(_mask(x)),
    "masked_select": lambda x: x.masked_select(x > 0),
    "boolean_index": lambda x: x[_mask(x)],
    "boolean_index_put": _boolean_put,
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "bincount": lambda x: torch.bincount(_mask(x).long()),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, _mask(x).long(), dim=0),
}


def plant(model: MARSModel, read: Callable[[Tensor], Any], where: str) -> MARSModel:
    """Let the second layer's visual FFN read its input, or the gradient of its output."""
    ffn = model.decoder.layers[1].mlp.visual

    def on_input(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        read(inputs[0])

    def on_output(_module: Any, _inputs: Any, output: tuple[Tensor, None]) -> None:
        if output[0].requires_grad:
            output[0].register_hook(on_gradient)

    def on_gradient(gradient: Tensor) -> None:
        read(gradient)

    if where == "forward":
        ffn.register_forward_pre_hook(on_input)
    else:
        ffn.register_forward_hook(on_output)
    return model


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("read", READS)
def test_every_way_to_read_is_caught_inside_a_layer(read: str, where: str) -> None:
    model, batch = plant(model_of({}), READS[read], where), make_batch([T2I, T2I])
    with pytest.raises(HostRead), NoHostReads():
        losses = model(batch).sum()
        assert where == "backward", "the forward should not have come this far"
        losses.backward()


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_a_read_is_caught_under_recompute(recompute: str) -> None:
    model = plant(model_of({"recompute.granularity": recompute}), READS["tolist"], "backward")
    batch = make_batch(MIXED)
    with NoHostReads():
        losses = model(batch).sum()
        with pytest.raises(HostRead, match="tolist"):
            losses.backward()


def test_the_masked_implementation_is_caught() -> None:
    masked = MaskedMARS(tiny_config(), one_rank())
    freeze(masked, tiny_config().freeze)
    with pytest.raises(HostRead), NoHostReads():
        masked(make_batch(MIXED))


def test_what_needs_no_value_is_left_alone() -> None:
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    index, mask = torch.tensor([2, 0]), torch.tensor([True, False, True])
    with NoHostReads():
        y = x.detach().clone()
        y[mask] = 0.0
        y[index] = y[index] + 1
        y = torch.where(mask[:, None], y, x).masked_fill(mask[:, None], 1.0).to(torch.float64)
        y.index_select(0, index).split((1, 1))[0].sum().backward()
    assert x.grad is not None
    # Outside the block everything may be read again.
    assert y.tolist() and x.detach().numpy().shape == (3, 2) and x[mask].cpu().shape == (2, 2)
