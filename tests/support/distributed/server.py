"""Forks ranks that have imported everything already: `python -m tests.support.distributed.server`, started by ranks.py.

An import of torch, megatron-core and transformers takes a rank seconds; a test is about what comes then. Each line on
stdin is a job (`Job` as JSON); when its ranks have ended, a line on stdout says whether all did well. What torchrun
adds to ranks (its signals, its patience) is tested with torchrun.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = ("jobs", "conversion_jobs", "evaluation_jobs", "generation_jobs")


@dataclass(frozen=True)
class Job:
    """Calls that all ranks make, one after the other.

    Attributes:
        num_ranks: How many; a single one is a job of its own, without the variables of a launcher.
        module: One of `MODULES`.
        calls: Names of its functions, and their keyword arguments.
        writer: The rank that writes what the calls returned; -1 is the last.
        folder: For `result.json` and `output.txt`, all that the ranks print.
    """

    num_ranks: int
    module: str
    calls: list[tuple[str, dict[str, Any]]]
    writer: int
    folder: str


def run_calls(job: Job) -> None:
    """What one rank does."""
    import torch

    from mars_megatron.platform.parallel import shut_down

    torch.set_num_threads(1)
    module = importlib.import_module(f"tests.support.distributed.{job.module}")
    values = [getattr(module, name)(**arguments) for name, arguments in job.calls]
    if torch.distributed.get_rank() == job.writer % job.num_ranks:
        Path(job.folder, "result.json").write_text(json.dumps(values))
    shut_down()


def _become_rank(job: Job, rank: int, port: int) -> None:
    output = os.open(Path(job.folder, "output.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    silence = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((silence, 0), (output, 1), (output, 2)):
        os.dup2(number, target)
    if job.num_ranks > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.num_ranks, "LOCAL_WORLD_SIZE": job.num_ranks}
        os.environ |= {name: str(value) for name, value in ranks.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _wait(ranks: set[int]) -> bool:
    """Whether all end well; the first that does not ends the others."""
    well = True
    while ranks:
        rank, status = os.wait()
        ranks.discard(rank)
        if status != 0 and well:
            well = False
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return well


def _free_port() -> int:
    """Below the ports that the system gives to connections."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def main() -> None:
    for module in MODULES:
        importlib.import_module(f"tests.support.distributed.{module}")
    assert len(os.listdir("/proc/self/task")) == 1 if sys.platform == "linux" else True, "a fork loses threads"
    gc.collect()
    gc.freeze()  # what was imported stays shared, and out of the ranks' collections
    for line in sys.stdin:
        job, port, ranks = Job(**json.loads(line)), _free_port(), set()
        for rank in range(job.num_ranks):
            child = os.fork()
            if child == 0:
                _become_rank(job, rank, port)
                return run_calls(job)
            ranks.add(child)
        print(json.dumps(_wait(ranks)), flush=True)


if __name__ == "__main__":
    main()
