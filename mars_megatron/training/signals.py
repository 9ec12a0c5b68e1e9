"""Stopping on request: on SIGTERM, SIGHUP or Ctrl-C a run saves a checkpoint and ends."""

from __future__ import annotations

import signal
import time
from types import FrameType

import torch

from mars_megatron import platform
from mars_megatron.platform.processes import STOP_SIGNALS, launched

SAME_REQUEST_SECONDS = 10.0


class StopRequest:
    """Notes the signals that ask for a stop. A second one ends the process, unless it follows at once.

    A scheduler and a launcher may both pass on the same request. SIGHUP stays ignored in a process that was started
    so (nohup), except under torchrun, which passes on its own.
    """

    def __init__(self) -> None:
        self._requested = False
        self._first = 0.0
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or launched() or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested and time.monotonic() - self._first > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self._requested:
            self._requested, self._first = True, time.monotonic()

    def agreed(self) -> bool:
        """Whether any rank was asked to stop; every rank must call this at the same step."""
        flag = torch.tensor(int(self._requested), device=platform.device())
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)
