"""`python -m mars_megatron.train`: exit codes, and a scheduler's SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mars_megatron import train
from mars_megatron.checkpoint import folders, latest
from mars_megatron.config import to_yaml
from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]


def test_sigterm_leaves_a_complete_checkpoint(base: RunConfig, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(base))
    options = {"config": tmp_path / "run.yaml", "checkpoint.dir": run_folder, "training.steps": 1_000_000}
    process = subprocess.Popen(
        [sys.executable, "-m", "mars_megatron.train", *(f"--{name}={value}" for name, value in options.items())],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = run_folder / "metrics.jsonl"
        wait_until(lambda: lines.is_file() and len(lines.read_text().splitlines()) >= 2, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, err
    (step,) = folders.complete_steps(run_folder)
    assert step >= 2 and latest(run_folder) == folders.step_folder(run_folder, step)
    assert f"stopped on request after step {step}; step {step} is saved" in out
    steps = [json.loads(line)["step"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, step + 1)), "the last step is the one that was saved"
    assert sorted(path.name for path in run_folder.iterdir()) == [
        "data_cache",
        "latest",
        "metrics.jsonl",
        f"step_{step:08d}",
    ]


@pytest.mark.usefixtures("one_rank")
def test_an_error_of_the_user_is_one_line_and_exit_code_2(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = override(base, [f"--data.path={tmp_path / 'not_there'}"])
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    monkeypatch.setattr(sys, "argv", ["train", f"--config={tmp_path / 'run.yaml'}"])
    assert train.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "not_there" in line
