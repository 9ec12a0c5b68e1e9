"""Packing samples into micro-batches of a token budget, and interleaving the packs of several tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mars_megatron.config.validate import MAX_SEQUENCE_PARALLEL as MAX_ROW_MULTIPLE
from mars_megatron.config.validate import RESERVED_ROWS

__all__ = ["MAX_ROW_MULTIPLE", "RESERVED_ROWS", "interleave", "pack"]


def pack(lengths: np.ndarray, budget: int, open_packs: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """First-fit packing in the given order with a bounded number of open packs.

    Every sample lands in exactly one pack, whole. Packs are ordered by when they were opened, so one pack's
    samples come from a short stretch of the order.

    Args:
        lengths: int64 [n], rows of each sample, none above the budget.
        budget: Most rows of one pack.
        open_packs: How many unfinished packs may wait for a fitting sample.

    Returns:
        members: int64 [n], positions into lengths, pack after pack.
        offsets: int64 [packs + 1], where each pack begins in members.
    """
    assert len(lengths) == 0 or (lengths.max() <= budget and lengths.min() > 0)
    packs: list[list[int]] = []
    waiting: list[list[int]] = []  # [free rows, pack], oldest first
    for position, length in enumerate(lengths.tolist()):
        for slot in waiting:
            if slot[0] >= length:
                slot[0] -= length
                packs[slot[1]].append(position)
                break
        else:
            if len(waiting) == open_packs:
                waiting.remove(min(waiting))  # the fullest one
            waiting.append([budget - length, len(packs)])
            packs.append([position])
    offsets = np.zeros(len(packs) + 1, dtype=np.int64)
    np.cumsum([len(members) for members in packs], out=offsets[1:])
    members = np.fromiter((p for members in packs for p in members), dtype=np.int64, count=len(lengths))
    return members, offsets


def interleave(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Spread the packs of several groups evenly over one order.

    Args:
        counts: Packs of each group.

    Returns:
        group: int64 [total], the group of each place of the order.
        number: int64 [total], which of the group's packs (0, 1, ... in order).
    """
    group = np.repeat(np.arange(len(counts)), counts)
    number = np.concatenate([np.arange(count) for count in counts]) if len(counts) else np.arange(0)
    place = (number + 0.5) / np.repeat(np.maximum(counts, 1), counts)
    order = np.lexsort((group, place))
    return group[order], number[order]
