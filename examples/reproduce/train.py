"""Trains the runs of the table that are not finished, several at once, each on one rank."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from runs import Run, all_runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run-dir", required=True, metavar="FOLDER", help="RUN_DIR of run.sh")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at the same time")
    options = parser.parse_args()
    run_dir = Path(options.run_dir)
    waiting = [run for run in all_runs() if not (run_dir / "runs" / run.name / "finished").exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    with tqdm(total=len(waiting), desc="training runs", unit="run") as bar:
        while waiting or running:
            # After a failure nothing new is begun; what runs may end.
            while waiting and not failed and len(running) < options.jobs:
                run = waiting.pop(0)
                running[run.name] = start(run, run_dir)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    failed.append(name)
                bar.update(1)
            if failed and not running:
                break
            time.sleep(0.5)
    for name in failed:
        print(f"{name} failed; see {run_dir / 'runs' / name / 'log.txt'}", file=sys.stderr)
    return 1 if failed else 0


def start(run: Run, run_dir: Path) -> subprocess.Popen[bytes]:
    """Begin (or go on with) a run; what it prints goes to its log.txt."""
    folder = run_dir / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mars_megatron.train", *run.options(run_dir)]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())
