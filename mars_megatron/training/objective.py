"""Objectives: from a micro-batch and the output of the model to the loss that is optimised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mars_megatron.sequence.batch import MIXED, Batch
from mars_megatron.sequence.samples import TASKS


@dataclass(frozen=True)
class StepResult:
    """The measurements of one step or evaluation, over the whole global batch. None is not logged.

    Attributes:
        loss: Mean loss per target, in nats.
        text_loss: Mean over text targets; None without any.
        visual_loss: Mean over visual targets; None without any.
        num_targets: Targets with a loss.
        num_tokens: Tokens processed, padding not counted.
        grad_norm: Global gradient norm before clipping; None for evaluations.
        skipped: Whether nothing was updated, see optimizer.grad_norm_skip_threshold; None if it was.
        others: What else an objective measures, by the name under which it is logged. Of next-token prediction
            loss_<task>, the mean loss per target of each task that had micro-batches of its own.
    """

    loss: float
    text_loss: float | None
    visual_loss: float | None
    num_targets: int
    num_tokens: int
    grad_norm: float | None = None
    skipped: bool | None = None
    others: dict[str, float] = field(default_factory=dict)


class Loss(NamedTuple):
    """The contribution of one micro-batch to a step.

    Attributes:
        total: What is optimised, a scalar; a step divides the sum over its micro-batches by that of `number`.
        number: int32 scalar.
        measures: float64 [num_measures] of the objective, without gradient; summed over the step.
    """

    total: Tensor
    number: Tensor
    measures: Tensor


class Objective(Protocol):
    """Called on the last pipeline stage for every micro-batch, in training and validation.

    Attributes:
        num_measures: Length of `Loss.measures`.
    """

    num_measures: int

    def __call__(self, batch: Batch, output: Tensor) -> Loss:
        """The loss of one micro-batch.

        Args:
            batch: The micro-batch, on the device.
            output: What the model returns: losses [targets] in nats, of the text targets, then of the visual ones.
        """

    def result(self, measures: list[float]) -> StepResult:
        """The result of a step, from the sums of the measures over all its micro-batches."""


class NextToken:
    """The mean over all targets of the loss of the next token.

    Args:
        text_weight: Factor of the text targets in the optimised loss. Logged losses are without it.
    """

    num_measures = 5 + 2 * len(TASKS)

    def __init__(self, text_weight: float = 1.0) -> None:
        self.text_weight = text_weight

    def __call__(self, batch: Batch, output: Tensor) -> Loss:
        """Measures: sum and number of the losses of text and of visual targets, tokens; then of each task its own."""
        text, visual = output.split((batch.num_text_targets, batch.num_visual_targets))
        num_targets = batch.num_text_targets + batch.num_visual_targets
        counts = torch.zeros(self.num_measures, dtype=torch.float64)
        counts[1], counts[3], counts[4] = batch.num_text_targets, batch.num_visual_targets, batch.plan.num_tokens
        of_task = 5 + 2 * batch.task
        if batch.task != MIXED:
            counts[of_task + 1] = num_targets
        measures = counts.to(output.device)
        measures[0], measures[2] = text.detach().double().sum(), visual.detach().double().sum()
        if batch.task != MIXED:
            measures[of_task] = measures[0] + measures[2]
        number = torch.tensor(num_targets, dtype=torch.int)
        return Loss(self.text_weight * text.sum() + visual.sum(), number.to(output.device), measures)

    def result(self, measures: list[float]) -> StepResult:
        """Means per target."""
        text, num_text, visual, num_visual, num_tokens, *of_tasks = measures
        sums = zip(TASKS, of_tasks[::2], of_tasks[1::2], strict=True)
        return StepResult(
            loss=(text + visual) / max(num_text + num_visual, 1),
            text_loss=text / num_text if num_text else None,
            visual_loss=visual / num_visual if num_visual else None,
            num_targets=round(num_text + num_visual),
            num_tokens=round(num_tokens),
            others={f"loss_{task}": loss / count for task, loss, count in sums if count},
        )
