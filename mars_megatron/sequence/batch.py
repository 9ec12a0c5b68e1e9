"""A packed micro-batch: whole samples, their dispatch plan and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

import numpy as np
import torch

from mars_megatron.sequence.plan import VISUAL, DispatchPlan, build_plan
from mars_megatron.sequence.vocabulary import Vocabulary

# One sample: input ids int64 [n], target ids int64 [n] (both joined ids), loss mask bool [n].
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
MIXED = -1  # task of a micro-batch with samples of several


@dataclass(frozen=True)
class Batch:
    """One micro-batch in sorted order: [text rows | visual rows], each part padded (see DispatchPlan).

    Args:
        plan: Order, counts and layout of the P rows.
        input_ids: int64 [P]. Text rows hold text ids, visual rows hold rows of the image table, padding 0.
        loss_rows: int64 [N]. Rows whose output has a loss, ordered [text targets | visual targets], each in
            sequence order. A visual row may have a text target (the end of an image before its caption).
        targets: int64 [N]. Text ids, then rows of the image table.
        num_text_targets: Number of text targets.
        num_visual_targets: Number of visual targets.
        index: Number of this micro-batch in the global order.
        task: The task of all its samples (sequence.samples), or MIXED.
    """

    plan: DispatchPlan
    input_ids: torch.Tensor
    loss_rows: torch.Tensor
    targets: torch.Tensor
    num_text_targets: int
    num_visual_targets: int
    index: int = 0
    task: int = MIXED

    @property
    def target_samples(self) -> torch.Tensor:
        """int64 [N], on the device of the batch: the number of the sample (0 to S - 1) that each target belongs to."""
        return self.plan.sorted_to_padded.index_select(0, self.loss_rows) // self.plan.max_seqlen

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors (and the plan's) on `device`."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), (DispatchPlan, torch.Tensor)):
                moved[field.name] = value.to(device, non_blocking=non_blocking)
        return replace(self, **moved)


def collate(
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    row_multiple: int = 1,
    total_rows: int | None = None,
    index: int = 0,
    task: int = MIXED,
) -> Batch:
    """Pack samples into one Batch.

    Args:
        samples: At least one (inputs, targets, loss mask), each non-empty.
        vocabulary: Layout of the joined ids.
        row_multiple: Both modalities' rows are padded to a multiple of this.
        total_rows: P is padded to exactly this, if given.
        index: Number of the micro-batch in the global order.
        task: The task of all samples, or MIXED.

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
        task=task,
    )


def _names(owner: type, *types: type) -> tuple[str, ...]:
    """Fields of a dataclass that are of one of the types."""
    hints = get_type_hints(owner)
    return tuple(field.name for field in fields(owner) if hints[field.name] in types)


# What `flatten` writes, in this order: the batch's own fields, then those of its plan.
_OWNERS = (Batch, DispatchPlan)
_INTEGERS = tuple((owner, name) for owner in _OWNERS for name in _names(owner, int, bool))
_TENSORS = tuple((owner, name) for owner in _OWNERS for name in _names(owner, torch.Tensor))
_HEADER = 1 + len(_INTEGERS) + len(_TENSORS)


def flatten(batch: Batch) -> np.ndarray:
    """A micro-batch as one int64 array, which travels between processes and to the device in one piece."""
    of = {Batch: batch, DispatchPlan: batch.plan}
    tensors = [getattr(of[owner], name).numpy() for owner, name in _TENSORS]
    peers = [rows for peer in batch.plan.expert_peers for rows in peer]
    header = [len(peers), *(int(getattr(of[owner], name)) for owner, name in _INTEGERS), *map(len, tensors)]
    return np.concatenate([header + peers, *tensors], dtype=np.int64)


def unflatten(values: np.ndarray, tensor: torch.Tensor) -> Batch:
    """The micro-batch that `flatten` made an array of.

    Args:
        values: The array, of which the counts are read here.
        tensor: The same as a tensor, on any device; the batch's tensors are views of it (cu_seqlens is a copy).
    """
    num_peers, *header = values[:_HEADER].tolist()
    integers, sizes = header[: len(_INTEGERS)], header[len(_INTEGERS) :]
    start = _HEADER + num_peers
    found: dict[type, dict[str, Any]] = {owner: {} for owner in _OWNERS}
    for (owner, name), value in zip(_INTEGERS + _TENSORS, [*integers, *tensor[start:].split(sizes)], strict=True):
        found[owner][name] = value
    of_plan = found[DispatchPlan]
    of_plan["cu_seqlens"] = of_plan["cu_seqlens"].int()
    of_plan["image_before_text"] = bool(of_plan["image_before_text"])
    peers = tuple((text, visual) for text, visual in values[_HEADER:start].reshape(-1, 2).tolist())
    return Batch(plan=DispatchPlan(**of_plan, expert_peers=peers), **found[Batch])
