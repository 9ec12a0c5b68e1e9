"""Runs functions of the `*jobs.py` on real gloo ranks, in processes of their own."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.distributed.server import Job

ROOT = Path(__file__).resolve().parents[3]


def launcher(num_ranks: int) -> list[str]:
    """What a command line begins with; one rank needs no torchrun, which takes seconds to start."""
    if num_ranks == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]


def environment() -> dict[str, str]:
    """One thread per rank, and the repository importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


class _Server:
    """A `server.py` of an interpreter, with these environment variables; lives as long as the tests of this process."""

    def __init__(self, python: str, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "tests.support.distributed.server"],
            cwd=ROOT,
            # So that torch counts GPUs without a context, which no fork survives.
            env={**environment(), "PYTORCH_NVML_BASED_CUDA_CHECK": "1", **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.kill)

    def run(self, job: Job) -> bool:
        """Whether all ranks ended well."""
        try:
            assert self._process.stdin and self._process.stdout
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except BaseException:  # a test's time is over, or the server's
            self.kill()
            _server.cache_clear()
            raise

    def kill(self) -> None:
        """End it and its ranks."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@cache
def _server(python: str, variables: tuple[tuple[str, str], ...]) -> _Server:
    return _Server(python, dict(variables))


def run_jobs(
    num_ranks: int,
    module: str,
    calls: Sequence[tuple[str, dict[str, Any]]],
    variables: Mapping[str, str] | None = None,
    writer: int = 0,
    python: str = sys.executable,
) -> list[Any]:
    """Make calls on `num_ranks` ranks, one after the other, and return what they return on one of the ranks.

    Args:
        num_ranks: Ranks, in new processes.
        module: Of this package, with the functions.
        calls: Their names and keyword arguments.
        variables: More environment variables.
        writer: The rank.
        python: The interpreter, which may be another than this one.

    Raises:
        RuntimeError: with the job's output, if a rank failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = Job(num_ranks, module, list(calls), writer, folder)
        if not _server(python, tuple(sorted((variables or {}).items()))).run(job):
            output = Path(folder, "output.txt").read_text(errors="replace")
            raise RuntimeError(f"{[name for name, _ in calls]} failed on {num_ranks} ranks:\n{output[-12000:]}")
        return json.loads(Path(folder, "result.json").read_text())


def run_ranks(
    num_ranks: int,
    job: str,
    arguments: dict[str, Any],
    variables: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Any:
    """What one function of jobs.py returns on rank 0; see `run_jobs`."""
    return run_jobs(num_ranks, "jobs", [(job, arguments)], variables, python=python)[0]
