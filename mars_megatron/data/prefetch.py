"""From the loader to the device, ahead of the step; read once per tensor-parallel group and sent to its other ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from mars_megatron.data.batch import Batch, unflatten
from mars_megatron.platform.transfer import Transfer


class Prefetcher:
    """Iterates over a rank's micro-batches, with their tensors on the device.

    The ranks of a group must take the same number of micro-batches. What is under way when they stop is completed by
    `close`, so that no rank is left waiting for another.

    Args:
        source: Micro-batches as `batch.flatten` makes them, on the first rank of the group; None on the others.
        depth: How many are brought ahead, in a thread; 0 brings each when it is asked for.
        group: Ranks that need the same micro-batches, talking between hosts; None if this rank is alone.
        num: How many there are; None for no end.
    """

    def __init__(
        self,
        source: Iterator[np.ndarray] | None,
        *,
        depth: int,
        group: torch.distributed.ProcessGroup | None = None,
        num: int | None = None,
    ) -> None:
        self._source, self._depth, self._group, self._left = source, depth, group, num
        self._transfer = Transfer()
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") if depth else None
        self._coming: deque[Future[Any]] = deque()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        if self._threads is None:
            if not self._take_turn():
                raise StopIteration
            values, begun = self._fetch()
        else:
            self._request(1)
            if not self._coming:
                raise StopIteration
            values, begun = self._coming.popleft().result()
            self._request(self._depth)
        return unflatten(values, self._transfer.end(begun))

    def close(self) -> None:
        """Complete what is under way and end the thread."""
        if self._threads is not None:
            self._threads.shutdown()
        self._coming.clear()

    def _request(self, wanted: int) -> None:
        assert self._threads is not None
        while len(self._coming) < wanted and self._take_turn():
            self._coming.append(self._threads.submit(self._fetch))

    def _take_turn(self) -> bool:
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0

    def _fetch(self) -> tuple[np.ndarray, Any]:
        values = torch.from_numpy(next(self._source)) if self._source is not None else None
        if self._group is not None:
            values = self._share(values)
        assert values is not None
        return values.numpy(), self._transfer.begin(values)

    def _share(self, values: torch.Tensor | None) -> torch.Tensor:
        size = torch.tensor([0 if values is None else len(values)])
        torch.distributed.broadcast(size, group=self._group, group_src=0)
        values = torch.empty(int(size), dtype=torch.int64) if values is None else values
        torch.distributed.broadcast(values, group=self._group, group_src=0)
        return values
