"""Likelihood of held-out data, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import torch

from mars_megatron import platform
from mars_megatron.config.schema import RunConfig
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.data.store import Store
from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Estimate, mean
from mars_megatron.evaluation.suite import Result, check_least
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import inference, row_multiple
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.samples import TASKS

MODALITIES = ("text", "visual")


@dataclass(frozen=True)
class Likelihood:
    """Nats per token of held-out samples: of text and of image tokens, over all tasks and for each.

    Captions are never dropped here. Intervals are over samples.

    Args:
        index: Prefix of an index made by tools/index_data.py, which is used whole; empty takes the validation split of
            the training data of the run.
        max_micro_batches: Largest number of micro-batches, of all tasks in turn; 0 for all.
        micro_batch_tokens: Largest number of tokens of a micro-batch; 0 takes that of the run.
    """

    name: ClassVar[str] = "likelihood"
    needs_image_tokenizer: ClassVar[bool] = False
    index: str = field(default="", metadata={"or_data_of_run": True})
    max_micro_batches: int = 0
    micro_batch_tokens: int = 0

    def check(self) -> None:
        """See `Suite`; whether the index fits the model is found out when that is there."""
        check_least(self, max_micro_batches=0, micro_batch_tokens=0)
        if self.index:
            Store(self.index)

    def run(self, context: Context) -> Result:
        """Read and sum."""
        model, config, _, vocabulary = context.sampler.loaded
        batches = open_micro_batches(
            self._with_data(config), vocabulary, split="validation", row_multiple=row_multiple(model)
        )
        available = batches.rounds.round(0).num_packs
        count = min(self.max_micro_batches or available, available)

        def score(numbers: list[int]) -> list[list[dict[str, float]]]:
            return [[asdict(loss) for loss in sample_losses(model, batches[number])] for number in numbers]

        with inference(model):
            found = context.compute("micro-batches", count, score, at_once=4)
        losses = [SampleLoss(**values) for of_batch in found for values in of_batch]
        return Result(estimates(losses), {"num_micro_batches": count, "of_micro_batches": available})

    def _with_data(self, config: RunConfig) -> RunConfig:
        """The settings with the data in question, whose packing is planned in memory."""
        data = replace(config.data, cache_dir="")
        if self.index:
            data = replace(data, path=self.index, blend=(), validation_path=self.index)
        if self.micro_batch_tokens:
            data = replace(data, micro_batch_tokens=self.micro_batch_tokens)
        if not data.path and not data.blend:
            raise ValueError("this checkpoint names no data (data.path is empty); give likelihood an index")
        return replace(config, data=data, checkpoint=replace(config.checkpoint, dir=""))


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
