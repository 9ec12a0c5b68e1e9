"""What ranks are fed: each data-parallel rank its own micro-batches, read once per tensor-parallel group."""

from __future__ import annotations

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.config.schema import RunConfig
from mars_megatron.data import MicroBatches, flat_batches, open_micro_batches
from mars_megatron.data.prefetch import Prefetcher
from mars_megatron.platform.parallel import host_channel
from mars_megatron.tokenizers.vocabulary import Vocabulary


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

    def check(self, split: str) -> None:
        """Find now what is wrong with a split, not after hours of training; arguments and errors as of `batches`."""
        if self.groups.tp.rank() == 0:
            self._open(split)

    def check_order(self, fingerprint: str) -> str:
        """Compare the order of the training samples with that of a resumed run; every rank must call this.

        Args:
            fingerprint: Of the checkpoint; empty if it has none.

        Returns:
            The fingerprint of this run's order.

        Raises:
            ValueError: It is another one, and the checkpoint's position means nothing here.
        """
        ours = [self._open("train").rounds.fingerprint if torch.distributed.get_rank() == 0 else ""]
        torch.distributed.broadcast_object_list(ours, src=0)
        if fingerprint not in ("", ours[0]):
            raise ValueError(
                f"the checkpoint in {self.config.checkpoint.dir} counts its position in other data: the indices of "
                "data.path or data.blend, or their weights, are not those it was trained on. Set them as they were, or "
                "start a new run from it with checkpoint.init_from and another checkpoint.dir"
            )
        return ours[0]

    def describe(self) -> str:
        """One line on the training data; for a rank that reads."""
        return self._open("train").describe()

    def _open(self, split: str) -> MicroBatches:
        if split not in self._opened:
            parallel = self.config.parallel
            row_multiple = parallel.tensor if parallel.sequence else 1
            self._opened[split] = open_micro_batches(
                self.config, self.vocabulary, split=split, row_multiple=row_multiple
            )
        return self._opened[split]
