"""One optimiser step and one evaluation, on megatron-core's pipeline schedules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
from mars_megatron.config.schema import RunConfig
from mars_megatron.platform.parallel import is_last_stage
from mars_megatron.sequence.batch import MIXED, Batch
from mars_megatron.sequence.samples import TASKS

_REPORT = ("text sum", "text count", "visual sum", "visual count", "tokens")
_REPORT_SIZE = len(_REPORT) + 2 * len(TASKS)


@dataclass(frozen=True)
class StepResult:
    """What one step or evaluation measured, over the whole global batch.

    Attributes:
        loss: Mean loss per target, in nats.
        text_loss: Mean over text targets; None without any.
        visual_loss: Mean over visual targets; None without any.
        num_targets: Targets with a loss.
        num_tokens: Tokens processed, padding not counted.
        task_losses: Mean loss per target of each task that had micro-batches of its own, as loss_<task>.
        grad_norm: Global gradient norm before clipping; None for evaluations.
        skipped: Whether nothing was updated, see optimizer.grad_norm_skip_threshold; None if it was.
    """

    loss: float
    text_loss: float | None
    visual_loss: float | None
    num_targets: int
    num_tokens: int
    grad_norm: float | None = None
    skipped: bool | None = None
    task_losses: dict[str, float] = field(default_factory=dict)


def _loss(batch: Batch, text_weight: float, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of the losses, their number, and unweighted sums and counts [_REPORT_SIZE]: _REPORT, then of each
    task."""
    text, visual = losses.split((batch.num_text_targets, batch.num_visual_targets))
    num_targets = batch.num_text_targets + batch.num_visual_targets
    counts = torch.zeros(_REPORT_SIZE, dtype=torch.float64)
    counts[1], counts[3], counts[4] = batch.num_text_targets, batch.num_visual_targets, batch.plan.num_tokens
    of_task = len(_REPORT) + 2 * batch.task
    if batch.task != MIXED:
        counts[of_task + 1] = num_targets
    report = counts.to(losses.device)
    report[0], report[2] = text.detach().double().sum(), visual.detach().double().sum()
    if batch.task != MIXED:
        report[of_task] = report[0] + report[2]
    number = torch.tensor(num_targets, dtype=torch.int)
    return text_weight * text.sum() + visual.sum(), number.to(losses.device), report


def _forward(text_weight: float, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[Tensor, Any]:
    batch = next(batches).to(platform.device(), non_blocking=True)
    return model(batch), partial(_loss, batch, text_weight)


class Stepper:
    """Runs the schedule over the micro-batches of this data-parallel rank.

    Args:
        model: This rank's wrapped chunks.
        config: The run.
        groups: Process groups.
    """

    def __init__(self, model: list[DistributedDataParallel], config: RunConfig, groups: ProcessGroupCollection) -> None:
        self.model, self.groups = model, groups
        self.skip_threshold = config.optimizer.grad_norm_skip_threshold
        self.micro_batch_tokens = config.data.micro_batch_tokens
        self.num_micro_batches = config.training.global_batch_size // groups.dp.size()
        self.core = model[0].module.config
        self.forward = partial(_forward, config.loss.text_weight)
        virtual = config.parallel.virtual_pipeline
        self.schedule = get_forward_backward_func(groups.pp.size(), virtual if virtual > 1 else None)
        self.communicator = P2PCommunicator(pp_group=groups.pp, config=self.core) if groups.pp.size() > 1 else None

    def train(self, batches: list[Iterator[Batch]], optimizer: MegatronOptimizer) -> StepResult:
        """Forward, backward, clip and update once.

        Args:
            batches: One iterator per model chunk, all over the same micro-batches.

        Raises:
            RuntimeError: a gradient is infinite or not a number.
        """
        for chunk in self.model:
            chunk.train()
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        reports = self._run(batches, self.num_micro_batches, forward_only=False)
        succeeded, grad_norm, _ = optimizer.step()
        skipped = not succeeded and grad_norm is not None and 0 < self.skip_threshold < grad_norm
        if not succeeded and not skipped:
            raise RuntimeError("the optimiser refused this step: a gradient is infinite or not a number")
        result = self._result(reports, None if grad_norm is None else float(grad_norm))
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

    def _result(self, reports: list[Tensor], grad_norm: float | None) -> StepResult:
        """Sum the last stages' reports over the data-parallel ranks and tell every stage."""
        total = torch.zeros(_REPORT_SIZE, dtype=torch.float64, device=platform.device())
        if is_last_stage(self.groups):
            total = torch.stack(reports).sum(0)
            torch.distributed.all_reduce(total, group=self.groups.dp_cp)
        last = torch.distributed.get_global_rank(self.groups.pp, self.groups.pp.size() - 1)
        torch.distributed.broadcast(total, src=last, group=self.groups.pp)
        text, num_text, visual, num_visual, num_tokens, *of_tasks = total.tolist()
        sums = zip(TASKS, of_tasks[::2], of_tasks[1::2], strict=True)
        return StepResult(
            loss=(text + visual) / max(num_text + num_visual, 1),
            text_loss=text / num_text if num_text else None,
            visual_loss=visual / num_visual if num_visual else None,
            num_targets=round(num_text + num_visual),
            num_tokens=round(num_tokens),
            grad_norm=grad_norm,
            task_losses={f"loss_{task}": loss / count for task, loss, count in sums if count},
        )
