"""What ranks are fed: each data-parallel rank its own micro-batches, read once per tensor-parallel group."""

from __future__ import annotations

from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.config.schema import RunConfig
from mars_megatron.data import MicroBatches, describe, flat_batches, open_micro_batches
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

    def describe(self) -> str:
        """One line on the training data; for a rank that reads."""
        return describe(self.config, self._open("train").stores)

    def _open(self, split: str) -> MicroBatches:
        if split not in self._opened:
            parallel = self.config.parallel
            row_multiple = parallel.tensor if parallel.sequence else 1
            self._opened[split] = open_micro_batches(
                self.config, self.vocabulary, split=split, row_multiple=row_multiple
            )
        return self._opened[split]
