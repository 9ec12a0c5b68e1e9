"""Private names of Python's standard library."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess


def workers(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    """The processes of a pool, started or ended. Python 3.14 can end them itself."""
    return list((pool._processes or {}).values())


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a parser, those that it made of a class's fields included."""
    return list(parser._actions)
