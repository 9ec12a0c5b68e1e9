"""Bringing arrays to the device ahead of the step that needs them."""

from __future__ import annotations

from typing import Any

import torch

from mars_megatron.platform.device import device


class Transfer:
    """Copies from pinned memory on a stream of their own, so that they overlap with what the device computes. Where the
    device is the CPU nothing is copied."""

    def __init__(self) -> None:
        self._device = device()
        self._on_gpu = self._device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(self._device) if self._on_gpu else None

    def begin(self, values: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Start copying a tensor of the CPU; may be called in another thread than `end`."""
        if not self._on_gpu:
            return values, None
        torch.cuda.set_device(self._device)  # every thread has its own
        with torch.cuda.stream(self._stream):
            # The allocator of pinned memory keeps it until the copy is done.
            moved = values.pin_memory().to(self._device, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        return moved, event

    def end(self, begun: tuple[torch.Tensor, Any]) -> torch.Tensor:
        """The tensor on the device; what the current stream does from here on waits for the copy."""
        moved, event = begun
        if event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            moved.record_stream(current)
        return moved
