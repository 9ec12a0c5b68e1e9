"""Losses of packed micro-batches, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mars_megatron import platform
from mars_megatron.evaluation.intervals import Estimate, mean
from mars_megatron.model import MARSModel
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.samples import TASKS

MODALITIES = ("text", "visual")


@dataclass(frozen=True)
class SampleLoss:
    """What a model needs for the targets of one modality in one sample.

    Attributes:
        task: Number of the task (sequence.samples).
        modality: Number of the modality in MODALITIES.
        count: Targets.
        nats: Sum of their losses.
    """

    task: int
    modality: int
    count: int
    nats: float


def sample_losses(model: MARSModel, batch: Batch) -> list[SampleLoss]:
    """Losses of a micro-batch; called inside `inference`, by every tensor-parallel rank.

    Args:
        model: The whole model.
        batch: Of one task, on the CPU.
    """
    losses = model(batch.to(platform.device())).double().cpu()  # [N], text targets first
    sequence = batch.plan.sorted_to_sequence[batch.loss_rows]
    samples = torch.searchsorted(batch.plan.cu_seqlens[1:].to(sequence.dtype), sequence, right=True)
    number = batch.plan.num_samples
    found = []
    parts = (slice(0, batch.num_text_targets), slice(batch.num_text_targets, None))
    for modality, part in enumerate(parts):
        sums = torch.zeros(number, dtype=torch.float64).index_add_(0, samples[part], losses[part])
        counts = samples[part].bincount(minlength=number)
        found += [
            SampleLoss(batch.task, modality, count, nats)
            for count, nats in zip(counts.tolist(), sums.tolist(), strict=True)
            if count
        ]
    return found


def estimates(losses: Sequence[SampleLoss]) -> dict[str, Estimate]:
    """Nats per target by modality, over all tasks and for each; intervals are over samples."""
    found: dict[str, Estimate] = {}
    for modality, name in enumerate(MODALITIES):
        ours = [loss for loss in losses if loss.modality == modality]
        groups = {"": ours} | {f"/{task}": [loss for loss in ours if loss.task == n] for n, task in enumerate(TASKS)}
        for suffix, group in groups.items():
            if group:
                values, counts = [loss.nats / loss.count for loss in group], [loss.count for loss in group]
                found[f"nats_per_{name}_token{suffix}"] = mean(values, counts)
    return found
