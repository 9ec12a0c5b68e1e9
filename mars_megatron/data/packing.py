"""Packing samples into micro-batches of a token budget: the specification of csrc/packing.cpp."""

from __future__ import annotations

import numpy as np

from mars_megatron.config.data_schema import MAX_SEQUENCE_PARALLEL as MAX_ROW_MULTIPLE
from mars_megatron.config.data_schema import RESERVED_ROWS

__all__ = ["CHOSEN_SAMPLES", "LOOKAHEAD", "MAX_ROW_MULTIPLE", "RESERVED_ROWS", "best_sum", "pack"]

LOOKAHEAD = 64  # samples that may wait for a pack
CHOSEN_SAMPLES = 4  # samples are taken in order while more room than this many of the longest is left


def pack(lengths: np.ndarray, budget: int, lookahead: int = LOOKAHEAD) -> tuple[np.ndarray, np.ndarray]:
    """Pack samples in order, and fill each pack's end with those of the waiting samples that fit it best.

    Every sample lands in exactly one pack, whole. A pack begins with the sample that has waited longest, so that none
    falls behind its place in the order by more than `lookahead` packs.

    Args:
        lengths: int64 [n], rows of each sample, from 1 to the budget.
        budget: Most rows of one pack.
        lookahead: How many samples the end of a pack is chosen from.

    Returns:
        members: int64 [n], positions into lengths, pack after pack.
        offsets: int64 [packs + 1], where each pack begins in members.
    """
    assert len(lengths) == 0 or (lengths.max() <= budget and lengths.min() > 0)
    rows = lengths.tolist()
    reserve = CHOSEN_SAMPLES * max(rows, default=0)
    queue = list(range(len(rows)))  # in order; only the first `lookahead` are looked at
    members: list[int] = []
    offsets = [0]
    while queue:
        room, taken = budget - rows[queue[0]], 1
        while taken < len(queue) and room - rows[queue[taken]] >= reserve:
            room -= rows[queue[taken]]
            taken += 1
        members += queue[:taken]
        del queue[:taken]
        while queue:
            waiting = queue[:lookahead]
            if sum(rows[position] for position in waiting) <= room:
                chosen = list(range(len(waiting)))
            else:
                chosen = best_sum([rows[position] for position in waiting], room)
            members += [waiting[number] for number in chosen]
            room -= sum(rows[waiting[number]] for number in chosen)
            for number in reversed(chosen):
                del queue[number]
            if len(chosen) < len(waiting):
                break
        offsets.append(len(members))
    return np.array(members, dtype=np.int64), np.array(offsets, dtype=np.int64)


def best_sum(lengths: list[int], limit: int) -> list[int]:
    """Ascending indices of the positive lengths whose sum is the largest within a limit; among equal sums, the one that
    is found with the earliest lengths."""
    last: dict[int, int] = {0: -1}  # of each sum that can be reached, the length that reached it first
    for number, length in enumerate(lengths):
        if limit in last:
            break
        for total in [total + length for total in last if total + length <= limit]:
            last.setdefault(total, number)
    total, chosen = max(last), []
    while total:
        chosen.append(last[total])
        total -= lengths[last[total]]
    return chosen[::-1]
