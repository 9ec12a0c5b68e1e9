"""Batches for decoding: the beginning of each sample at once, then one or K new tokens per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mars_megatron.sequence import VISUAL, DispatchPlan, build_plan
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary

_NO_TARGETS = torch.zeros(0, dtype=torch.int64)


def pack_samples(
    samples: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    row_multiple: int = 1,
    every_token: bool = False,
    num_last: int = 1,
) -> Batch:
    """Pack samples without targets, on the CPU.

    Args:
        samples: Joined ids of each sample; none empty.
        vocabulary: Layout of the joined ids.
        row_multiple: Both modalities' rows are padded to a multiple of this.
        every_token: Ask for the logits of every token, in sequence order, instead of each sample's last ones.
        num_last: Tokens at the end of each sample whose logits are asked for; no sample is shorter.
    """
    assert samples and all(len(sample) > 0 for sample in samples), "there is an empty sample"
    ends = torch.tensor([0] + [len(sample) for sample in samples]).cumsum(0)
    ids = torch.tensor([token for sample in samples for token in sample], dtype=torch.int64)  # [T] joined
    modality = vocabulary.modality(ids)
    plan = build_plan(modality, ends.int(), row_multiple=row_multiple)
    input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
    input_ids[plan.sequence_to_sorted] = torch.where(modality == VISUAL, vocabulary.image_row(ids), ids)
    rows = plan.sequence_to_sorted
    last = ends[1:, None] + torch.arange(-num_last, 0)
    return _batch(plan, input_ids, rows if every_token else rows[last.flatten()])


def sample_lengths(plan: DispatchPlan) -> torch.Tensor:
    """int64 [num_samples] on the host: what the KV cache advances by. The plan must still be on the CPU."""
    return plan.cu_seqlens.long().diff()


@dataclass(frozen=True)
class DecodeStep:
    """New tokens for each sample, of modalities that are known: the plan stays the same while only ids change.

    Args:
        template: Batch with the plan of a step, on the device of the model.
        id_offset: What is taken off a joined id to get a row of its table; int64 [num_samples] if they differ.
    """

    template: Batch
    id_offset: int | torch.Tensor

    @classmethod
    def build(
        cls,
        num_samples: int,
        modality: int,
        vocabulary: Vocabulary,
        row_multiple: int = 1,
        device: torch.device | str = "cpu",
        num_tokens: int = 1,
    ) -> DecodeStep:
        """The step of `num_samples` samples that all go on with `num_tokens` tokens of `modality`."""
        ends = torch.arange(num_samples + 1, dtype=torch.int32) * num_tokens
        modalities = torch.full((num_samples * num_tokens,), modality, dtype=torch.uint8)
        plan = build_plan(modalities, ends, row_multiple=row_multiple)
        input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
        offset = vocabulary.text_size if modality == VISUAL else 0
        return cls(_batch(plan, input_ids, plan.sequence_to_sorted).to(device), offset)

    @classmethod
    def mixed(
        cls,
        modalities: Sequence[int],
        vocabulary: Vocabulary,
        row_multiple: int = 1,
        device: torch.device | str = "cpu",
    ) -> DecodeStep:
        """The step in which each sample goes on with one token, of its own modality."""
        ends = torch.arange(len(modalities) + 1, dtype=torch.int32)
        modality = torch.tensor(modalities, dtype=torch.uint8)
        plan = build_plan(modality, ends, row_multiple=row_multiple)
        input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
        offset = modality.long() * vocabulary.text_size
        return cls(_batch(plan, input_ids, plan.sequence_to_sorted).to(device), offset.to(device))

    def batch(self, ids: torch.Tensor) -> Batch:
        """The batch that feeds joined ids int64 [num_samples * num_tokens], those of the first sample first."""
        input_ids = self.template.input_ids.index_copy(0, self.template.loss_rows, ids - self.id_offset)
        return replace(self.template, input_ids=input_ids)


def _batch(plan: DispatchPlan, input_ids: torch.Tensor, wanted: torch.Tensor) -> Batch:
    return Batch(
        plan=plan,
        input_ids=input_ids,
        loss_rows=wanted,
        targets=_NO_TARGETS,
        num_text_targets=0,
        num_visual_targets=0,
    )
