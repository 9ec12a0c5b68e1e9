"""The compiled extension: loading it, and deciding when it is used."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch

from mars_megatron.compat.pytorch import has_kernel

_EXTENSION = "mars_megatron._C"
_INTERFACE = 4  # kInterface of csrc/bindings.cpp


def _load() -> ModuleType | None:
    if importlib.util.find_spec(_EXTENSION) is None:
        return None
    try:
        module = importlib.import_module(_EXTENSION)
    except ImportError as error:
        raise ImportError(
            f"{_EXTENSION} does not load; build it again for this torch {torch.__version__}: "
            "`pip install -e . --no-build-isolation` in the repository"
        ) from error
    found = getattr(module, "interface", 0)
    if found != _INTERFACE:
        raise ImportError(
            f"{_EXTENSION} was built from other sources (interface {found}, wanted {_INTERFACE}); build it again: "
            "`bash examples/setup.sh` in the repository"
        )
    return module


# Loaded with this module, so that torch.ops.mars_megatron is there for all who name it (saved graphs too), and
# so that no call has to look for it: torch.compile could not trace that.
_extension = _load()
_devices = (
    frozenset(
        kind for kind, key in (("cpu", "CPU"), ("cuda", "CUDA")) if has_kernel("mars_megatron::permute_rows", key)
    )
    if _extension is not None
    else frozenset()
)


def native_available() -> bool:
    """Whether the extension has been compiled."""
    return _extension is not None


def extension() -> ModuleType:
    """The extension.

    Raises:
        RuntimeError: It has not been compiled.
    """
    if _extension is None:
        raise RuntimeError(
            f"{_EXTENSION} is not compiled: run `pip install -e . --no-build-isolation` in the repository, "
            'or use impl="reference"'
        )
    return _extension


def release_kept_memory() -> None:
    """Return the memory that the extension keeps for its next large outputs on the CPU (at most 512 MiB)."""
    if _extension is not None:
        _extension.release_kept_memory()


def use_native(impl: str, device: str = "cpu") -> bool:
    """Whether `impl` means the extension on a type of device: under "auto", where it has a kernel for it.

    Raises:
        ValueError: impl is none of "auto", "native", "reference", or the extension has no kernel for the device.
        RuntimeError: impl is "native" and the extension has not been compiled.
    """
    if impl == "auto":
        return device in _devices
    if impl not in ("native", "reference"):
        raise ValueError(f'impl must be "auto", "native" or "reference", got {impl!r}')
    if impl == "native" and extension() and device not in _devices:
        raise ValueError(
            f"the extension has kernels for {', '.join(sorted(_devices))}, not for {device}: use "
            'impl="auto", or build it with a torch and a CUDA toolkit for that device'
        )
    return impl == "native"
