"""The compiled extension: finding it, and deciding when it serves."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch

_EXTENSION = "mars_megatron._C"


@cache
def native_available() -> bool:
    """Whether the extension has been compiled. One that is there but does not load raises when used."""
    return importlib.util.find_spec(_EXTENSION) is not None


@cache
def extension() -> ModuleType:
    """The extension, loaded.

    Raises:
        RuntimeError: It has not been compiled.
    """
    if not native_available():
        raise RuntimeError(
            f"{_EXTENSION} is not compiled: run `pip install -e . --no-build-isolation` in the repository, "
            'or use impl="reference"'
        )
    return importlib.import_module(_EXTENSION)


def use_native(impl: str, x: torch.Tensor) -> bool:
    """Whether `impl` means the extension for a tensor like x.

    Raises:
        ValueError: impl is none of "auto", "native", "reference".
    """
    if impl not in ("auto", "native", "reference"):
        raise ValueError(f'impl must be "auto", "native" or "reference", got {impl!r}')
    return impl == "native" or (impl == "auto" and x.device.type == "cpu" and native_available())
