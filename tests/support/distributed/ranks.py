"""Runs functions of `jobs.py` on real gloo ranks, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def command(num_ranks: int, job: str, arguments: dict[str, Any], result: Path) -> list[str]:
    """The command line of a job; one rank needs no torchrun, which takes seconds to start."""
    return [*launcher(num_ranks), "-m", "tests.support.distributed.start", job, json.dumps(arguments), str(result)]


def launcher(num_ranks: int) -> list[str]:
    """What a command line begins with."""
    if num_ranks == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]


def environment() -> dict[str, str]:
    """One thread per rank, and the repository importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def run_ranks(
    num_ranks: int,
    job: str,
    arguments: dict[str, Any],
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Run a job on `num_ranks` ranks, with more environment variables if given, and return rank 0's result.

    Raises:
        RuntimeError: with the job's output, if a rank failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        done = subprocess.run(
            command(num_ranks, job, arguments, result),
            cwd=ROOT,
            env={**environment(), **(variables or {})},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{job} failed on {num_ranks} ranks:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
        return json.loads(result.read_text())
