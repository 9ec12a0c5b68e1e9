"""Processes that belong to another one: the helpers of a rank to the rank, the ranks to their launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

# Requests to stop. torchrun passes each on to the process group of every rank.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1
# Looked up here: a process that was just forked may find the loader locked.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
if _prctl is not None:
    _prctl.argtypes = (ctypes.c_int, ctypes.c_ulong)


def launched() -> bool:
    """Whether this process was started by torchrun, or by something that sets what torchrun sets."""
    return "RANK" in os.environ


def become_helper() -> None:
    """Make this process, just forked by a rank, its helper: a request to stop is for the rank alone, which ends its
    helpers when it has saved; and no helper outlives the rank."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _signal_when_parent_ends(signal.SIGKILL)


def end_with_launcher(parent: int | None = None) -> None:
    """Let the end of torchrun, however it comes, be a request to stop: no rank goes on without it. On Linux alone.

    Args:
        parent: Process id of this process's parent when it began, if that is known: it may have ended since.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    _signal_when_parent_ends(signal.SIGTERM)
    if parent not in (None, os.getppid()):
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def interruptions_later() -> Iterator[None]:
    """Let Ctrl-C take effect behind the block. Outside of the main thread, where it takes none, nothing is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # A mask would not do: any other thread may be handed the signal, and Python then acts in this one.
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def exit_at_once(code: int) -> NoReturn:
    """End this process and, on Linux, its helpers, without waiting for threads and processes that may wait for a rank
    that is gone."""
    with suppress(OSError):  # who reads it may be gone too
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _signal_when_parent_ends(number: signal.Signals) -> None:
    """For the system, a parent ends with the thread that started this process."""
    if _prctl is not None and _prctl(_PR_SET_PDEATHSIG, int(number)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
