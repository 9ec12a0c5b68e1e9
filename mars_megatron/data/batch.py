"""A packed micro-batch: whole samples, their dispatch plan and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mars_megatron.ops.plan import VISUAL, DispatchPlan, build_plan
from mars_megatron.tokenizers.vocabulary import Vocabulary

# One sample: input ids int64 [n], target ids int64 [n] (both joined ids), loss mask bool [n].
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """One micro-batch in sorted order: [text rows | visual rows], each part padded (see DispatchPlan).

    Args:
        plan: Order, counts and layout of the P rows.
        input_ids: int64 [P]. Text rows hold text ids, visual rows hold rows of the image table, padding 0.
        loss_rows: int64 [N]. Rows whose output has a loss, ordered [text targets | visual targets], each in
            sequence order. A visual row may have a text target (the end of an image before its caption).
        targets: int64 [N]. Text ids, then rows of the image table.
        num_text_targets: How many of the N are text.
        num_visual_targets: How many of the N are visual.
        index: Number of this micro-batch in the global order.
    """

    plan: DispatchPlan
    input_ids: torch.Tensor
    loss_rows: torch.Tensor
    targets: torch.Tensor
    num_text_targets: int
    num_visual_targets: int
    index: int = 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors (and the plan's) on `device`."""
        return replace(
            self,
            plan=self.plan.to(device, non_blocking=non_blocking),
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
            loss_rows=self.loss_rows.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )


def collate(
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    row_multiple: int = 1,
    total_rows: int | None = None,
    index: int = 0,
) -> Batch:
    """Pack samples into one Batch.

    Args:
        samples: At least one (inputs, targets, loss mask), each non-empty.
        vocabulary: Layout of the joined ids.
        row_multiple: Both modalities' rows are padded to a multiple of this.
        total_rows: P is padded to exactly this, if given.
        index: Number of the micro-batch in the global order.

    Raises:
        ValueError: The samples do not fit in total_rows (from build_plan).
    """
    assert samples, "a micro-batch needs at least one sample"
    lengths = [len(inputs) for inputs, _, _ in samples]
    assert min(lengths) > 0, "empty sample"
    cu_seqlens = torch.zeros(len(samples) + 1, dtype=torch.int32)
    cu_seqlens[1:] = torch.tensor(lengths).cumsum(0)
    ids = torch.from_numpy(np.concatenate([inputs for inputs, _, _ in samples]))  # [T] joined
    targets = torch.from_numpy(np.concatenate([target for _, target, _ in samples]))  # [T] joined
    mask = torch.from_numpy(np.concatenate([loss for _, _, loss in samples]))  # [T]
    assert ids.dtype == targets.dtype == torch.int64 and mask.dtype == torch.bool
    assert len(ids) == len(targets) == len(mask)

    modality = vocabulary.modality(ids)
    plan = build_plan(modality, cu_seqlens, row_multiple=row_multiple, total_rows=total_rows)
    input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
    input_ids[plan.sequence_to_sorted] = torch.where(modality == VISUAL, vocabulary.image_row(ids), ids)

    positions = mask.nonzero()[:, 0]  # sequence positions with a loss, ascending
    visual = vocabulary.modality(targets[positions]) == VISUAL
    text_positions, visual_positions = positions[~visual], positions[visual]
    return Batch(
        plan=plan,
        input_ids=input_ids,
        loss_rows=plan.sequence_to_sorted[torch.cat([text_positions, visual_positions])],
        targets=torch.cat([targets[text_positions], vocabulary.image_row(targets[visual_positions])]),
        num_text_targets=len(text_positions),
        num_visual_targets=len(visual_positions),
        index=index,
    )
