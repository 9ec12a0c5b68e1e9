"""Private names of Python's standard library."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess


def workers(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    """The processes of a pool, started or ended. Python 3.14 can end them itself."""
    return list((pool._processes or {}).values())
