"""Trains the runs of the table that are not finished, several at once, each on one rank."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from examples.reproduce.runs import Run, all_runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run-dir", required=True, metavar="FOLDER", help="RUN_DIR of run.sh")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at the same time")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; accepted: 1 or more")
    run_dir = Path(options.run_dir)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        failed = train([run for run in all_runs() if not is_finished(run, run_dir)], run_dir, options.jobs)
    except KeyboardInterrupt:
        print("stopped; run examples/reproduce/run.sh again to resume", file=sys.stderr)
        return 130
    for name in failed:
        print(f"{name} is not finished; see {run_dir / 'runs' / name / 'log.txt'}", file=sys.stderr)
    return 1 if failed else 0


def train(waiting: Sequence[Run], run_dir: Path, jobs: int) -> list[str]:
    """Train runs, `jobs` at a time; the names of those that ended before they were finished.

    After a failure nothing new is begun; what runs may end. No run outlives this function: if it is interrupted, they
    are asked to stop, each behind a checkpoint, and waited for.
    """
    waiting = list(waiting)
    running: dict[str, tuple[Run, subprocess.Popen[bytes]]] = {}
    failed: list[str] = []
    try:
        with tqdm(total=len(waiting), desc="training runs", unit="run") as bar:
            while running or (waiting and not failed):
                while waiting and not failed and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run.name] = run, start(run, run_dir)
                for name in [name for name, (_, process) in running.items() if process.poll() is not None]:
                    run, _ = running.pop(name)
                    # A run that was asked to stop ends without an error too.
                    if is_finished(run, run_dir):
                        bar.update(1)
                    else:
                        failed.append(name)
                time.sleep(0.5)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return failed


def is_finished(run: Run, run_dir: Path) -> bool:
    """Whether all its steps are done."""
    return (run_dir / "runs" / run.name / "finished").exists()


def start(run: Run, run_dir: Path) -> subprocess.Popen[bytes]:
    """Begin (or go on with) a run; what it prints goes to its log.txt."""
    folder = run_dir / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mars_megatron.train", *run.options(run_dir)]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
