"""The device, chosen once per process; the rest of the package asks here for it."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import Literal

import torch

from mars_megatron.compat import cpu
from mars_megatron.platform import processes
from mars_megatron.platform.adam import FusedStateAdamW

_device: torch.device | None = None


def initialize(kind: Literal["auto", "cpu", "cuda"] = "auto") -> torch.device:
    """Choose the device of this process; must run before models or process groups are made.

    Args:
        kind: `auto` takes CUDA where a GPU is visible, else the CPU.

    Raises:
        ValueError: `cuda` without a visible GPU, `cpu` with one, or a second choice that differs from the first.
    """
    global _device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() and not cpu.is_enabled() else "cpu"
    if _device is not None:
        if _device.type != kind:
            raise ValueError(f"this process already runs on {_device.type}; it cannot change to {kind}")
        return _device
    if kind == "cpu":
        with warnings.catch_warnings():
            # megatron-core warns of every missing GPU library; `python -m mars_megatron.platform` says it once.
            warnings.simplefilter("ignore")
            cpu.enable()
        _device = torch.device("cpu")
    else:
        if not torch.cuda.is_available():
            raise ValueError("training.device=cuda, but torch sees no GPU; use cpu or auto")
        _device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(_device)
    from mars_megatron.compat import megatron_core  # slow; not for workers, which need no device

    megatron_core.quiet()
    megatron_core.install_adam(FusedStateAdamW)
    return _device


def device() -> torch.device:
    """The device chosen by `initialize`."""
    assert _device is not None, "platform.initialize() has not run"
    return _device


def init_process_group(timeout_minutes: float = 10.0) -> None:
    """Join the job that torchrun describes in the environment, or make a job of one."""
    if torch.distributed.is_initialized():
        return
    backend = "nccl" if device().type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    processes.end_with_launcher()
    if processes.launched():
        torch.distributed.init_process_group(backend, timeout=timeout)
    else:
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
