"""Gradients of one forward, and a model that trains."""

from __future__ import annotations

from typing import Any

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from mars_megatron.model import MARSModel
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.samples import TEXT_ONLY
from mars_megatron.training.optimizer import build_optimizer, wrap_data_parallel
from mars_megatron.training.step import Stepper
from tests.support.tiny import MIXED, make_batch, one_rank, randomize, tiny_config, tiny_model


def gradients(model: MARSModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Losses, and the gradient of every parameter (None where autograd did not reach it)."""
    model.zero_grad()
    losses = model(batch)
    losses.square().sum().backward()  # unequal weights
    return losses.detach(), {
        name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in model.named_parameters()
    }


def training(overrides: dict[str, Any]) -> tuple[MARSModel, list[DistributedDataParallel], MegatronOptimizer, Any]:
    """A model ready to train: itself, its wrapper, optimiser, and a function that takes one step."""
    settings = {"training.global_batch_size": 2, "training.steps": 3, "optimizer.lr": 0.01, **overrides}
    config, model = tiny_config(settings), randomize(tiny_model(settings))
    groups = one_rank()
    wrapped = wrap_data_parallel([model], config, groups)
    optimizer, scheduler = build_optimizer(wrapped, config, groups)
    stepper = Stepper(wrapped, config, groups)

    def step() -> Any:
        scheduler.step(increment=1)
        return stepper.train([iter([make_batch(MIXED), make_batch([TEXT_ONLY])])], optimizer)

    return model, wrapped, optimizer, step
