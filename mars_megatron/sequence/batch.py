"""A packed micro-batch: whole samples, their dispatch plan and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mars_megatron.sequence.plan import VISUAL, DispatchPlan, build_plan
from mars_megatron.sequence.vocabulary import Vocabulary

# One sample: input ids int64 [n], target ids int64 [n] (both joined ids), loss mask bool [n].
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
MIXED = -1  # task of a micro-batch with samples of several

# Fields in the order of `flatten`.
_BATCH_INTEGERS = ("num_text_targets", "num_visual_targets", "index", "task")
_PLAN_INTEGERS = (
    *("num_tokens", "num_samples", "num_text", "num_visual", "padded_text", "padded_visual", "row_multiple"),
    *("max_seqlen", "num_text_blocks", "image_before_text"),
)
_BATCH_TENSORS = ("input_ids", "loss_rows", "targets")
_PLAN_TENSORS = (
    *("runs", "cu_seqlens", "position_ids", "text_block", "sequence_to_sorted", "sorted_to_sequence"),
    *("padded_to_sorted", "sorted_to_padded"),
)
_HEADER = 3 + len(_BATCH_INTEGERS) + len(_PLAN_INTEGERS)


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


def flatten(batch: Batch) -> np.ndarray:
    """A micro-batch as one int64 array, which travels between processes and to the device in one piece."""
    plan = batch.plan
    header = [len(plan.runs), len(batch.targets), len(plan.expert_peers)]
    header += [int(getattr(batch, name)) for name in _BATCH_INTEGERS]
    header += [int(getattr(plan, name)) for name in _PLAN_INTEGERS]
    header += [rows for peer in plan.expert_peers for rows in peer]
    tensors = [getattr(batch, name) for name in _BATCH_TENSORS] + [getattr(plan, name) for name in _PLAN_TENSORS]
    return np.concatenate([header, *(tensor.numpy().ravel() for tensor in tensors)], dtype=np.int64)


def unflatten(values: np.ndarray, tensor: torch.Tensor) -> Batch:
    """The micro-batch that `flatten` made an array of.

    Args:
        values: The array, of which the counts are read here.
        tensor: The same as a tensor, on any device; the batch's tensors are views of it (cu_seqlens is a copy).
    """
    num_runs, num_targets, num_peers, *rest = values[:_HEADER].tolist()
    integers = dict(zip((*_BATCH_INTEGERS, *_PLAN_INTEGERS), rest, strict=True))
    peers = values[_HEADER : _HEADER + 2 * num_peers].reshape(-1, 2).tolist()
    rows, tokens = integers["padded_text"] + integers["padded_visual"], integers["num_tokens"]
    places = integers["num_samples"] * integers["max_seqlen"]
    sizes = [rows, num_targets, num_targets]
    sizes += [4 * num_runs, integers["num_samples"] + 1, rows, rows, tokens, rows, places, rows]
    parts = tensor[_HEADER + 2 * num_peers :].split(sizes)
    tensors = dict(zip((*_BATCH_TENSORS, *_PLAN_TENSORS), parts, strict=True))
    tensors["runs"], tensors["cu_seqlens"] = tensors["runs"].view(-1, 4), tensors["cu_seqlens"].int()
    fields: dict[str, Any] = {**integers, **tensors, "image_before_text": bool(integers["image_before_text"])}
    plan = DispatchPlan(
        **{name: fields[name] for name in (*_PLAN_INTEGERS, *_PLAN_TENSORS)},
        expert_peers=tuple((text, visual) for text, visual in peers),
    )
    return Batch(plan=plan, **{name: fields[name] for name in (*_BATCH_INTEGERS, *_BATCH_TENSORS)})
