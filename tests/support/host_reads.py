"""Finds places where the host waits for the device.

On the CPU such a read costs nothing and shows nowhere, so it is looked for by name: `NoHostReads` raises on every
operator whose result's shape or value the host must know, and on the methods that hand out memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class HostRead(Exception):
    """The host read from the device."""


class _Operators(TorchDispatchMode):
    """Below autograd, so in the backward too: operators that torch itself marks as needing values."""

    def __init__(self) -> None:
        super().__init__()
        self.may_fill = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"):
            # With integers these are plain gathers and scatters; a mask must be counted first.
            masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            if masked and not self.may_fill:
                raise HostRead(f"boolean {name}")
        elif torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise HostRead(name)
        return func(*args, **kwargs)


def _is_cpu(value: Any) -> bool:
    return isinstance(value, (str, torch.device)) and torch.device(value).type == "cpu"


# Ways out of torch that pass no operator, at least for tensors that lie on the host: what makes a call one.
METHODS: dict[str, Callable[..., bool]] = {
    **dict.fromkeys(("tolist", "numpy", "__array__", "__dlpack__", "cpu"), lambda *_args, **_kwargs: True),
    "to": lambda *args, **kwargs: any(_is_cpu(value) for value in (*args, *kwargs.values())),
}


class NoHostReads(ExitStack):
    """Raises `HostRead` on a read inside the block.

    The methods are replaced on the class: a TorchFunctionMode would see them, but not in a backward.
    """

    def __enter__(self) -> NoHostReads:
        super().__enter__()
        self.operators = self.enter_context(_Operators())
        for name, reads in METHODS.items():
            self._replace(name, partial(self._method, name, reads))
        self._replace("__setitem__", self._set_item)
        return self

    def _replace(self, name: str, wrap: Callable[..., Any]) -> None:
        original = getattr(Tensor, name)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            return wrap(original, *args, **kwargs)

        self.enter_context(mock.patch.object(Tensor, name, replacement))

    @staticmethod
    def _method(name: str, reads: Callable[..., bool], original: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if reads(*args, **kwargs):
            raise HostRead(name)
        return original(tensor, *args, **kwargs)

    def _set_item(self, original: Any, tensor: Tensor, index: Any, value: Any) -> None:
        # x[mask] = 0 becomes a masked_fill; torch counts a mask only for values that are tensors.
        self.operators.may_fill = not isinstance(value, Tensor)
        try:
            original(tensor, index, value)
        finally:
            self.operators.may_fill = False
