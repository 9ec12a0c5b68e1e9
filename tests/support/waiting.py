"""How long tests wait: for what must happen, not for seconds; and how long something may take on a machine that is busy
with other work."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any


def scaled(seconds: float) -> float:
    """A time limit, given for an idle machine, for this one: up to ten times longer, by what waits for each core."""
    return seconds * min(max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1)), 10.0)


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[Any]) -> None:
    """Return as soon as a condition holds, which a process is to bring about; the limit is that of the test.

    Raises:
        AssertionError: The process ended before.
    """
    while not condition():
        assert process.poll() is None, f"it ended, with code {process.returncode}, before {condition}"
        time.sleep(0.002)
