"""The part of the micro-batches that one data-parallel rank reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mars_megatron.config.schema import RunConfig
from mars_megatron.data.micro_batches import MicroBatches
from mars_megatron.platform.processes import become_helper
from mars_megatron.sequence.batch import flatten


def flat_batches(
    batches: MicroBatches,
    config: RunConfig,
    *,
    dp_rank: int = 0,
    dp_size: int = 1,
    start: int = 0,
    num: int | None = None,
    num_workers: int = 0,
) -> Iterator[np.ndarray]:
    """The micro-batches of one data-parallel rank as `batch.flatten` makes them.

    Args:
        batches: The global sequence.
        config: The run.
        dp_rank: Data-parallel rank: it reads the micro-batches g with g % dp_size == dp_rank.
        dp_size: Data-parallel size.
        start: Global number of the first micro-batch that has not been used yet (steps done times
            training.global_batch_size); a multiple of parallel.expert.
        num: How many of this rank; None for no end.
        num_workers: Processes that read ahead; they are started here, and end with the thread that calls this. 0 reads
            when asked.

    Raises:
        ValueError: The sizes do not fit together.
    """
    if batches.rounds.endless and config.training.global_batch_size % dp_size:
        raise ValueError(
            f"training.global_batch_size is {config.training.global_batch_size}; it must be a "
            f"multiple of the data-parallel size, {dp_size}"
        )
    if start % config.parallel.expert:
        raise ValueError(
            f"parallel.expert is {config.parallel.expert}; accepted: a divisor of the {start} micro-batches that this "
            "run has consumed, because so many consecutive ones are processed together"
        )
    first = start + (dp_rank - start) % dp_size
    batches.rounds.samples(first)  # planned here, once, and not by every worker
    return iter(
        DataLoader(
            _Flat(batches),
            batch_size=None,
            sampler=_Numbers(first, dp_size, num),
            num_workers=num_workers,
            collate_fn=_unchanged,
            prefetch_factor=4 if num_workers else None,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # or it would draw from, and change, the global random state
        )
    )


class _Flat(Dataset):
    """Flattened: a worker hands over one array through a pipe, not a dozen tensors through files of shared memory."""

    def __init__(self, batches: MicroBatches) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> np.ndarray:
        return flatten(self.batches[index])


class _Numbers:
    """The micro-batch numbers first, first + step, ... as a sampler."""

    def __init__(self, first: int, step: int, num: int | None) -> None:
        self.first, self.step, self.num = first, step, num

    def __iter__(self) -> Iterator[int]:
        return islice(count(self.first, self.step), self.num)


def _prepare_worker(_worker: int) -> None:
    become_helper()


def _unchanged(batch: Any) -> Any:
    return batch
