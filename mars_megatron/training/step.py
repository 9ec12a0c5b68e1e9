"""One optimiser step and one evaluation, on megatron-core's pipeline schedules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from mars_megatron import platform
from mars_megatron.compat import megatron_core
from mars_megatron.config.schema import RunConfig
from mars_megatron.platform.parallel import is_last_stage
from mars_megatron.sequence.batch import Batch
from mars_megatron.training.objective import NextToken, Objective, StepResult


def _forward(objective: Objective, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[Tensor, Any]:
    batch = next(batches)
    return model(batch), partial(objective, batch)


class Stepper:
    """Runs the schedule over the micro-batches of this data-parallel rank.

    Args:
        model: This rank's wrapped chunks.
        config: The run.
        groups: Process groups.
        objective: What is optimised; None for the next token.
    """

    def __init__(
        self,
        model: list[DistributedDataParallel],
        config: RunConfig,
        groups: ProcessGroupCollection,
        objective: Objective | None = None,
    ) -> None:
        megatron_core.forget_loss_scale()
        self.model, self.groups = model, groups
        self.objective = objective or NextToken(config.loss.text_weight)
        self.skip_threshold = config.optimizer.grad_norm_skip_threshold
        self.micro_batch_tokens = config.data.micro_batch_tokens
        self.num_micro_batches = config.training.global_batch_size // groups.dp.size()
        self.core = model[0].module.config
        self.forward = partial(_forward, self.objective)
        virtual = config.parallel.virtual_pipeline
        self.schedule = get_forward_backward_func(groups.pp.size(), virtual if virtual > 1 else None)
        self.communicator = P2PCommunicator(pp_group=groups.pp, config=self.core) if groups.pp.size() > 1 else None

    def train(self, batches: list[Iterator[Batch]], optimizer: MegatronOptimizer) -> StepResult:
        """Forward, backward, clip and update once.

        Args:
            batches: One iterator per model chunk, all over the same micro-batches, which are on the device.

        Raises:
            RuntimeError: a gradient is infinite or not a number.
        """
        for chunk in self.model:
            chunk.train()
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        measures = self._run(batches, self.num_micro_batches, forward_only=False)
        succeeded, grad_norm, _ = optimizer.step()
        skipped = not succeeded and grad_norm is not None and 0 < self.skip_threshold < grad_norm
        if not succeeded and not skipped:
            raise RuntimeError("the optimiser refused this step: a gradient is infinite or not a number")
        result = self._result(measures, None if grad_norm is None else float(grad_norm))
        return replace(result, skipped=True) if skipped else result

    @torch.no_grad()
    def evaluate(self, batches: list[Iterator[Batch]], num_micro_batches: int) -> StepResult:
        """Losses over `num_micro_batches` of each data-parallel rank, without gradients."""
        for chunk in self.model:
            chunk.eval()
        return self._result(self._run(batches, num_micro_batches, forward_only=True), None)

    def _run(self, batches: list[Iterator[Batch]], num_micro_batches: int, forward_only: bool) -> list[Tensor]:
        return self.schedule(
            forward_step_func=self.forward,
            data_iterator=batches,
            model=self.model,
            num_microbatches=num_micro_batches,
            seq_length=self.micro_batch_tokens,
            micro_batch_size=1,
            decoder_seq_length=self.micro_batch_tokens,
            forward_only=forward_only,
            pg_collection=self.groups,
            p2p_communicator=self.communicator,
        )

    def _result(self, measures: list[Tensor], grad_norm: float | None) -> StepResult:
        """Sum what the last stages measured over the data-parallel ranks and tell every stage."""
        total = torch.zeros(self.objective.num_measures, dtype=torch.float64, device=platform.device())
        if is_last_stage(self.groups):
            total = torch.stack(measures).sum(0)
            torch.distributed.all_reduce(total, group=self.groups.dp_cp)
        last = torch.distributed.get_global_rank(self.groups.pp, self.groups.pp.size() - 1)
        torch.distributed.broadcast(total, src=last, group=self.groups.pp)
        return replace(self.objective.result(total.tolist()), grad_norm=grad_norm)
