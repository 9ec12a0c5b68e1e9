"""Stopping on request: the scheduler's SIGTERM or the user's Ctrl-C end the run behind a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType

import torch

from mars_megatron import platform


class StopRequest:
    """Notes SIGTERM and SIGINT; a second one of the same kind ends the process at once."""

    def __init__(self) -> None:
        self._requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        signal.signal(number, signal.SIG_DFL)

    def agreed(self) -> bool:
        """Whether any rank was asked to stop; every rank must call this at the same step."""
        flag = torch.tensor(int(self._requested), device=platform.device())
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)
