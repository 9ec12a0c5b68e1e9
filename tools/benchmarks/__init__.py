"""Benchmarks of the project against common alternatives."""

import os
from pathlib import Path


def child_environment() -> dict[str, str]:
    """The environment in which processes that are started find this package, from whatever folder they start."""
    folders = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
