"""Runs as users start them, by torchrun and by the script, that are asked to stop or killed: the signals are real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from mars_megatron.checkpoint import folders, latest
from mars_megatron.config import to_yaml
from tests.support.corpus import write_corpus
from tests.support.distributed.jobs import tiny_config
from tests.support.distributed.ranks import ROOT, environment, launcher, run_ranks
from tests.support.waiting import scaled, wait_until

pytestmark = pytest.mark.distributed

# More steps than can be done, each with a checkpoint, before a signal comes.
STEPS = 30
LAYOUTS: dict[str, dict[str, Any]] = {"data": {"data.num_workers": 1}, "tensor": {"parallel.tensor": 2}}


class Run:
    """A run on two ranks, in a session of its own; `family` are torchrun, the ranks and all that these have started."""

    def __init__(self, command: list[str], root: Path, variables: dict[str, str]) -> None:
        self.root, self.family = root, []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_error: object) -> None:
        for member in self._find_family():
            signal_if_there(member, signal.SIGKILL)
        self.process.wait()

    def has_saved(self) -> bool:
        return bool(folders.complete_steps(self.root))

    def is_saving_again(self) -> bool:
        return self.has_saved() and any(self.root.glob("*.incomplete/__*"))

    def rank(self, number: int) -> psutil.Process:
        (found,) = (member for member in self.family if is_rank(member, number) and member.ppid() == self.process.pid)
        return found

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.process)
        self._find_family()

    def output(self) -> str:
        """All that was printed. It is complete when the last process is gone that could print more."""
        text, _ = self.process.communicate(timeout=scaled(60))
        _, alive = psutil.wait_procs(self.family, timeout=scaled(10))
        assert not alive
        return text

    def _find_family(self) -> list[psutil.Process]:
        if self.process.poll() is None:
            torchrun = psutil.Process(self.process.pid)
            self.family = list({*self.family, torchrun, *torchrun.children(recursive=True)})
        return self.family


def is_rank(process: psutil.Process, number: int) -> bool:
    try:
        return "mars_megatron.train" in process.cmdline() and process.environ().get("RANK") == str(number)
    except psutil.NoSuchProcess:  # a writer that is through
        return False


def signal_if_there(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def to_torchrun(number: int) -> Callable[[Run], None]:
    return lambda run: run.process.send_signal(number)


def to_the_group(number: int) -> Callable[[Run], None]:
    """As a terminal and timeout do; the ranks are in sessions of their own."""
    return lambda run: os.killpg(run.process.pid, number)


def to_everybody_twice(number: int) -> Callable[[Run], None]:
    """As Slurm signals a job step."""

    def send(run: Run) -> None:
        for member in 2 * run.family:
            signal_if_there(member, number)

    return send


@dataclass(frozen=True)
class Request:
    """A request to stop, when it comes, and what torchrun ends with."""

    send: Callable[[Run], None]
    when: Callable[[Run], bool] = Run.has_saved
    layout: str = "data"
    script: bool = False
    code: int = 1


REQUESTS = {
    "SIGTERM": Request(to_torchrun(signal.SIGTERM)),
    "SIGTERM twice, while it saves": Request(to_everybody_twice(signal.SIGTERM), Run.is_saving_again, "tensor"),
    "SIGTERM to the group of the script": Request(to_the_group(signal.SIGTERM), script=True),
    "torchrun is killed": Request(to_torchrun(signal.SIGKILL), layout="tensor", code=-signal.SIGKILL),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an index, and later the runs, below a name that a shell would split."""
    folder = tmp_path_factory.mktemp("runs") / "of two ranks"
    folder.mkdir()
    write_corpus(folder / "train", num_images=60, num_texts=20)
    return folder


def settings(folder: Path, name: str, layout: str) -> dict[str, Any]:
    return {
        "data.path": str(folder / "train"),
        "checkpoint.dir": str(folder / name),
        "training.steps": STEPS,
        "training.global_batch_size": 2,
        "model.num_layers": 2,
        **LAYOUTS[layout],
    }


def start(folder: Path, name: str, layout: str, script: bool = False) -> Run:
    """A run that saves after every step."""
    file, root = folder / f"{name}.yaml", folder / name
    file.write_text(to_yaml(tiny_config(settings(folder, name, layout) | {"checkpoint.interval": 1})))
    if not script:
        return Run([*launcher(2), "-m", "mars_megatron.train", f"--config={file}"], root, {})
    knobs = {"DEVICE": "cpu", "RECIPE": "tiny", "CONFIG": str(file), "OUTPUT": str(root), "SAVE_INTERVAL": "1"}
    return Run(["bash", str(ROOT / "examples" / "pretrain_mars.sh")], root, knobs | {"PYTHON": sys.executable})


Interrupted = Callable[[str], tuple[Run, str]]


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> Interrupted:
    """A run that a request has ended, and what it printed."""

    @cache
    def by(name: str) -> tuple[Run, str]:
        request = REQUESTS[name]
        with start(folder, name, request.layout, request.script) as run:
            run.wait_until(lambda: request.when(run))
            request.send(run)
            return run, run.output()

    return by


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_ends_a_run_behind_a_complete_checkpoint(interrupted: Interrupted, name: str) -> None:
    run, text = interrupted(name)
    assert run.process.returncode == REQUESTS[name].code, text
    step = folders.complete_steps(run.root)[-1]
    assert latest(run.root) == folders.step_folder(run.root, step)
    assert f"stopped on request after step {step}; step {step} is saved" in text
    done = [json.loads(line)["step"] for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    assert done == list(range(1, step + 1)) and step < STEPS
    assert not list(run.root.glob("*.incomplete")) and "Broken pipe" not in text


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(interrupted: Interrupted, folder: Path) -> None:
    for name in REQUESTS:
        interrupted(name)
    whole = {layout: settings(folder, f"whole, {layout}", layout) for layout in LAYOUTS}
    resumed = [settings(folder, name, request.layout) for name, request in REQUESTS.items()]
    found = run_ranks(2, "run", {"runs": [*whole.values(), *resumed]})
    expected = dict(zip(whole, found, strict=False))
    for (name, request), losses in zip(REQUESTS.items(), found[len(whole) :], strict=True):
        assert len(losses) == STEPS and losses == expected[request.layout], name


def test_a_killed_rank_ends_the_run_and_leaves_no_process(folder: Path) -> None:
    """The other rank ends by itself, before torchrun loses its patience, and nobody keeps the output open."""
    with start(folder, "killed", "data") as run:
        run.wait_until(run.is_saving_again)
        run.rank(0).kill()
        text = run.output()
    assert run.process.returncode == 1 and len(re.findall(r"exitcode +: -9 ", text)) == 1, text
    assert latest(run.root) is not None
