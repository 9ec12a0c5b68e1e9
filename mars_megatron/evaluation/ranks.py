"""Sharing scoring among the ranks of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def my_share(count: int) -> range:
    """Numbers below `count` that this rank works on; those of all ranks together are all of them."""
    return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())


def score_shared(count: int, score: Callable[[Sequence[int]], Sequence[float]]) -> list[float]:
    """Scores of `count` things, each computed on one rank; every rank must call it, and gets all.

    Args:
        count: How many there are.
        score: Gives the scores of the things with these numbers.
    """
    mine = my_share(count)
    part = [float(value) for value in score(mine)] if len(mine) else []
    assert len(part) == len(mine), (len(part), len(mine))
    ranks = torch.distributed.get_world_size()
    parts: list[list[float]] = [part] * ranks
    torch.distributed.all_gather_object(parts, part)
    whole = [0.0] * count
    for rank, values in enumerate(parts):
        whole[rank::ranks] = values
    return whole


def over_replicas(
    count: int, group: torch.distributed.ProcessGroup, work: Callable[[list[int]], Sequence[Item]]
) -> list[Item]:
    """What `work` gives for `count` things, shared among the replicas of the model; every rank must call it, and gets
    all.

    Args:
        count: How many things there are.
        group: The data-parallel group.
        work: Gives the results of the things with these numbers; the ranks of one replica call it together.
    """
    replicas, mine = group.size(), list(range(group.rank(), count, group.size()))
    part = list(work(mine)) if mine else []
    assert len(part) == len(mine), (len(part), len(mine))
    parts: list[list[Item]] = [part] * replicas
    if replicas > 1:
        torch.distributed.all_gather_object(parts, part, group=group)
    return [parts[number % replicas][number // replicas] for number in range(count)]
