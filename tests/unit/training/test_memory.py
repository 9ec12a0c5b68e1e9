"""What training holds beside the model is what its trained parameters need, to the byte.

Measured, not computed from what megatron-core says of its buffers: the memory of every tensor that is alive, before the
gradient buffers and the optimiser exist and after steps were taken.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mars_megatron.model import MARSModel
from mars_megatron.training.optimizer import build_optimizer, wrap_data_parallel
from mars_megatron.training.step import Stepper
from tests.support.tiny import MIXED, make_batch, one_rank, randomize, tiny_config, tiny_model

# Counters, norms and flags of megatron-core and torch: elements that no parameter has alone.
FLAGS = 8
BYTES = {"fp32": 4, "bf16": 2}
FP32 = 4


def tensors() -> Iterator[Tensor]:
    """Every tensor that is alive. A gradient has an object of its own only once it is asked for."""
    gc.collect()
    for found in gc.get_objects():
        # A lazily imported module may be among them, and would be loaded by isinstance.
        if issubclass(type(found), Tensor) and found.layout is torch.strided:  # other tests may leave sparse ones
            yield found
            if found.is_leaf and found.grad is not None:
                yield found.grad


def live_bytes() -> tuple[int, int]:
    """Bytes of all memory that tensors hold, each piece counted once: of more than one element, and of one."""
    sizes = {}
    for tensor in tensors():
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = (storage.nbytes(), storage.nbytes() <= tensor.element_size())
    return (
        sum(size for size, single in sizes.values() if not single),
        sum(size for size, single in sizes.values() if single),
    )


class Run:
    """A model that took two steps, and how many bytes came to life with them.

    Args:
        overrides: Settings of the run.
    """

    def __init__(self, overrides: dict[str, Any]) -> None:
        settings = {"training.steps": 3, "training.global_batch_size": 1, **overrides}
        config, groups = tiny_config(settings), one_rank()
        self.model: MARSModel = randomize(tiny_model(settings))
        self.batch = make_batch(MIXED)
        self.before = live_bytes()
        wrapped = wrap_data_parallel([self.model], config, groups)
        self.optimizer, scheduler = build_optimizer(wrapped, config, groups)
        self.stepper = Stepper(wrapped, config, groups)
        for _ in range(2):
            scheduler.step(increment=1)
            self.stepper.train([iter([self.batch])], self.optimizer)

    def grown(self) -> int:
        """Bytes of tensors beyond those of the model and its batch."""
        bytes_now, flags_now = live_bytes()
        assert flags_now - self.before[1] <= 8 * FLAGS
        return bytes_now - self.before[0]

    def parameters(self, trained: bool) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad == trained]


def padded(sizes: list[int]) -> int:
    """Elements of a buffer of the distributed optimiser on one rank.

    megatron-core fills it from the last parameter to the first, each at a multiple of 64, and ends it at one of 128.
    """
    end = 0
    for size in reversed(sizes):
        end = -(-end // 64) * 64 + size
    return -(-end // 128) * 128


def expected(parameters: list[Tensor], precision: str, distributed: bool) -> int:
    """Bytes that training these parameters takes beside themselves."""
    number = sum(parameter.numel() for parameter in parameters)
    moments, master = 2 * number * FP32, number * FP32 if precision == "bf16" else 0
    if not distributed:
        return number * FP32 + moments + master
    # The parameters themselves move into a buffer, whose padding alone is new.
    buffer = padded([parameter.numel() for parameter in parameters])
    return buffer * FP32 + (buffer - number) * BYTES[precision] + moments + master


FREEZES = {
    "paper": {},
    "norms_trained": {"freeze.norms": False},
    "text_trained": {"freeze.text": False, "freeze.visual": True},
    "all_trained": {"freeze.text": False, "freeze.norms": False},
}


@pytest.mark.parametrize("distributed", [True, False], ids=["distributed", "plain"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", FREEZES)
def test_training_holds_what_the_trained_parameters_need(case: str, precision: str, distributed: bool) -> None:
    run = Run({**FREEZES[case], "training.precision": precision, "parallel.distributed_optimizer": distributed})
    trained, frozen = run.parameters(trained=True), run.parameters(trained=False)
    assert run.grown() == expected(trained, precision, distributed)
    assert bool(frozen) == (case != "all_trained")
    for parameter in frozen:
        assert parameter.grad is None and not hasattr(parameter, "main_grad")
        # Not moved into a buffer either: its memory is its own.
        assert parameter.untyped_storage().nbytes() == parameter.numel() * BYTES[precision]


def test_what_a_frozen_parameter_would_cost_is_seen() -> None:
    """The measure itself: gradients, states and copies of frozen parameters do not escape it."""
    run = Run({})
    parameter = max(run.parameters(trained=False), key=Tensor.numel)
    size, grown = parameter.numel() * FP32, run.grown()
    parameter.grad = torch.zeros_like(parameter)
    assert run.grown() == grown + size
    parameter.main_grad = torch.zeros(parameter.numel() // 2 * 2).view(2, -1)  # type: ignore[attr-defined]
    assert run.grown() == grown + 2 * size
    (inner,) = run.optimizer.chained_optimizers
    inner.optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    assert run.grown() == grown + 3 * size
    parameter.grad = None
    assert run.grown() == grown + 2 * size
