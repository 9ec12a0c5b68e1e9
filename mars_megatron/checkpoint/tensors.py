"""Tensors that are read when they are needed, so that a model passes through memory one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class TensorInfo(NamedTuple):
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{list(self.shape)} {str(self.dtype).removeprefix('torch.')}"


class TensorSource(Protocol):
    """Something that tensors can be read from by name."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor there is."""

    def read(self, name: str) -> Tensor:
        """The whole tensor, on the CPU. Threads may read at the same time.

        Raises:
            NoNumbersError: A value is nan or inf.
        """


class LazyTensor(NamedTuple):
    """A tensor to be written.

    Attributes:
        info: What `load` returns.
        load: Reads or makes it.
    """

    info: TensorInfo
    load: Callable[[], Tensor]


def prefetched(tensors: Mapping[str, LazyTensor]) -> Iterator[tuple[str, Tensor]]:
    """All tensors in order, the next one read by another thread while the caller is busy with this one."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        names = iter(tensors)
        name = next(names, None)
        future = pool.submit(tensors[name].load) if name is not None else None
        while name is not None and future is not None:
            tensor, info = future.result(), tensors[name].info
            assert tuple(tensor.shape) == info.shape and tensor.dtype == info.dtype, (name, info, tensor.shape)
            following = next(names, None)
            future = pool.submit(tensors[following].load) if following is not None else None
            yield name, tensor
            del tensor
            name = following
    finally:
        pool.shutdown(cancel_futures=True)
