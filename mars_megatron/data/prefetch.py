"""From the loader to the device, ahead of the step; read once per tensor-parallel group and sent to its other ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from mars_megatron.platform.parallel import HostChannel
from mars_megatron.platform.transfer import Transfer
from mars_megatron.sequence.batch import Batch, unflatten


class Prefetcher:
    """Iterates over a rank's micro-batches, with their tensors on the device.

    The ranks of a channel must take the same number of micro-batches. What is under way when they stop is completed by
    `close`, so that no rank is left waiting for another.

    Args:
        source: Micro-batches as `batch.flatten` makes them, on the first rank of the channel; None on the others.
        depth: How many are brought ahead, in a thread; 0 brings each when it is asked for.
        channel: Ranks that need the same micro-batches; None if this rank is alone.
        num: How many there are; None for no end.
    """

    def __init__(
        self,
        source: Iterator[np.ndarray] | None,
        *,
        depth: int,
        channel: HostChannel | None = None,
        num: int | None = None,
    ) -> None:
        self._source, self._depth, self._channel, self._left = source, depth, channel, num
        self._transfer = Transfer()
        self._thread = channel.thread if channel else ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._coming: deque[Future[Any]] = deque()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        self._request(1)
        if not self._coming:
            raise StopIteration
        values, begun = self._coming.popleft().result()
        self._request(self._depth)
        return unflatten(values, self._transfer.end(begun))

    def close(self) -> None:
        """Complete what is under way."""
        while self._coming:
            self._coming.popleft().result()
        if self._channel is None:
            self._thread.shutdown()

    def _request(self, wanted: int) -> None:
        while len(self._coming) < wanted and self._left != 0:
            self._left = None if self._left is None else self._left - 1
            self._coming.append(self._thread.submit(self._fetch))

    def _fetch(self) -> tuple[np.ndarray, Any]:
        values = torch.from_numpy(next(self._source)) if self._source is not None else None
        if self._channel is not None:
            values = self._share(values, self._channel.group)
        assert values is not None
        return values.numpy(), self._transfer.begin(values)

    def _share(self, values: torch.Tensor | None, group: torch.distributed.ProcessGroup) -> torch.Tensor:
        size = torch.tensor([0 if values is None else len(values)])
        torch.distributed.broadcast(size, group=group, group_src=0)
        values = torch.empty(int(size), dtype=torch.int64) if values is None else values
        torch.distributed.broadcast(values, group=group, group_src=0)
        return values
