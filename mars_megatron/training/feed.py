"""The micro-batches of each data-parallel rank, read once per tensor-parallel group."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.checkpoint import Position
from mars_megatron.config.schema import RunConfig
from mars_megatron.data.checks import open_stores
from mars_megatron.data.loader import flat_batches
from mars_megatron.data.micro_batches import MicroBatches, open_micro_batches
from mars_megatron.data.prefetch import Prefetcher
from mars_megatron.data.store import Store
from mars_megatron.platform.parallel import host_channel
from mars_megatron.sequence.vocabulary import Vocabulary


class Feed:
    """Opens the data of a run. Every rank of the job must make one at the same point.

    Args:
        config: The run.
        vocabulary: Joined id space.
        groups: Process groups.
    """

    def __init__(self, config: RunConfig, vocabulary: Vocabulary, groups: ProcessGroupCollection) -> None:
        self.config, self.vocabulary, self.groups = config, vocabulary, groups
        self._channel = host_channel(groups.tp)
        self._stores: dict[str, Store] | None = None
        self._opened: dict[str, MicroBatches] = {}

    def batches(self, split: str, start: int = 0, num: int | None = None) -> Prefetcher:
        """This rank's micro-batches on the device; must be called by all ranks of a tensor-parallel group.

        Args:
            split: "train" or "validation".
            start: Global number of the first one, see data.flat_batches.
            num: How many of this rank; None for no end.

        Raises:
            ValueError: The data do not fit the configuration; on the ranks that read.
        """
        source, data = None, self.config.data
        if self.groups.tp.rank() == 0:
            source = flat_batches(
                self._open(split),
                self.config,
                dp_rank=self.groups.dp.rank(),
                dp_size=self.groups.dp.size(),
                start=start,
                num=num,
                # Validation reads in the thread that prefetches: processes would be started anew every time.
                num_workers=data.num_workers if split == "train" else 0,
            )
        return Prefetcher(source, depth=data.prefetch, channel=self._channel, num=num)

    def num_packs(self, split: str) -> int:
        """Micro-batches of the first round of a split, all there are for validation; every rank must call this.

        What is wrong with a split is found here, not after hours of training.

        Raises:
            ValueError: The data do not fit the configuration; on the ranks that read.
        """
        ours = self._open(split).rounds.round(0).num_packs if self.groups.tp.rank() == 0 else 0
        return max(_of_every_rank(ours))

    def check_order(self, position: Position) -> str:
        """Compare the order of the training samples with that of a resumed run; every rank must call this.

        Args:
            position: Where the run is to go on.

        Returns:
            The fingerprint of this run's order.

        Raises:
            ValueError: The ranks read different data, or the position was not counted in this order.
        """
        ours = self._open("train").rounds.fingerprint if self.groups.tp.rank() == 0 else None
        everyones = _of_every_rank(ours)
        for rank, theirs in enumerate(everyones):
            if theirs not in (None, everyones[0]):
                raise ValueError(
                    f"rank {rank} reads other data than rank 0 under the same paths; are there copies, one of them old?"
                )
        if position.micro_batches and position.data_order != everyones[0]:
            raise ValueError(
                f"the checkpoint in {self.config.checkpoint.dir} counts its position in other data, or in the order of "
                "an earlier version: the indices of data.path or data.blend, or their weights, are not those it was "
                "trained on. Set them as they were, or start a new run from it with checkpoint.init_from and another "
                "checkpoint.dir"
            )
        return everyones[0]

    def describe(self) -> str:
        """One line on the training data; for a rank that reads."""
        return self._open("train").describe()

    def _open(self, split: str) -> MicroBatches:
        if self._stores is None:
            self._stores = open_stores(self.config, self.vocabulary)
        if split not in self._opened:
            parallel = self.config.parallel
            row_multiple = parallel.tensor if parallel.sequence else 1
            self._opened[split] = open_micro_batches(
                self.config, self.vocabulary, split=split, row_multiple=row_multiple, stores=self._stores
            )
        return self._opened[split]


def _of_every_rank(value: Any) -> list[Any]:
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
