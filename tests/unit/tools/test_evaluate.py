"""tools/evaluate.py goes on after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mars_megatron.evaluation.runner import UNFINISHED
from tests.support.command_lines import TOOLS, load_tool
from tests.support.tiny_run import write_run
from tests.support.waiting import wait_until

NUM_IMAGES = 600


def test_it_goes_on_after_it_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL while it draws; the run after it keeps what is there, and draws the images of one that was left alone."""
    run, cut, whole = write_run(tmp_path), tmp_path / "cut", tmp_path / "whole"
    options = ["--prompts", run.prompts, "--images", run.images, "--samples-per-prompt", str(NUM_IMAGES // 6)]
    line = ["prompt_fidelity", run.checkpoint, *options, "--batch-size", "4", "--guidance", "1"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(TOOLS / "evaluate.py"), *line, "--output", str(cut)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list((cut / UNFINISHED).rglob("*.npy"))) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "prompt_fidelity.json").exists()
    kept = sum(len(np.load(path)) for path in (cut / UNFINISHED).rglob("*.npy"))
    assert 12 <= kept < NUM_IMAGES, "killed in the middle"

    tool = load_tool("evaluate")
    for folder in (cut, whole):
        assert tool.main([*line, "--output", str(folder), "--grid", f"{folder}.png"]) == 0
        assert (f"{kept} of {NUM_IMAGES} images are there already" in capsys.readouterr().out) == (folder == cut)
    scores = [json.loads((folder / "prompt_fidelity.json").read_text())["scores"] for folder in (cut, whole)]
    assert scores[0] == scores[1]
    # of random codes through a random tokenizer, so that it shows each code
    assert Path(f"{cut}.png").read_bytes() == Path(f"{whole}.png").read_bytes()
