"""examples/reproduce: its trainings end with it, and go on; its report is made of what all runs have left."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Stands in for mars_megatron.train: asked to stop, it ends without an error, as that does behind a checkpoint.
TRAINING = """
import pathlib, signal, sys, time
folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(0)))
(folder / "begun").touch()
if kind == "long":
    time.sleep(60)
if kind == "whole":
    (folder / "finished").touch()
"""


@pytest.fixture
def scripts() -> dict[str, ModuleType]:
    return {
        name: importlib.import_module(f"examples.reproduce.{name}")
        for name in ("runs", "train", "plots", "results", "report")
    }


def starter(module: ModuleType, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str]) -> list[Any]:
    """Puts the stand-in in the place of trainings; the processes that are started."""
    started: list[Any] = []

    def start(run: Any, run_dir: Path) -> Any:
        folder = run_dir / "runs" / run.name
        folder.mkdir(parents=True, exist_ok=True)
        started.append(subprocess.Popen([sys.executable, "-c", TRAINING, str(folder), kinds[run.name]]))
        return started[-1]

    monkeypatch.setattr(module, "start", start)
    return started


def test_an_unfinished_run_stops_the_others(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [scripts["runs"].Run(name, "frozen", 1) for name in ("one", "two", "three")]
    train = scripts["train"]
    # "two" ends without an error, but before it is finished: somebody asked it to stop
    started = starter(train, monkeypatch, {"one": "whole", "two": "cut", "three": "whole"})
    assert train.train(runs, tmp_path, 1) == ["two"] and len(started) == 2
    assert [train.is_finished(run, tmp_path) for run in runs] == [True, False, False]


def test_no_training_outlives_an_interruption(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [scripts["runs"].Run(name, "frozen", 1) for name in ("one", "two")]
    started = starter(scripts["train"], monkeypatch, {"one": "long", "two": "long"})
    folders = [tmp_path / "runs" / run.name for run in runs]
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if all((folder / "begun").exists() for folder in folders):
            os.kill(os.getpid(), signal.SIGTERM)
        sleep(seconds)

    monkeypatch.setattr(scripts["train"].time, "sleep", interrupted)
    monkeypatch.setattr(scripts["train"], "all_runs", lambda: iter(runs))
    monkeypatch.setattr(sys, "argv", ["train.py", "--run-dir", str(tmp_path)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert scripts["train"].main() == 130
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert [process.poll() for process in started] == [0, 0]
    assert all((folder / "saved").exists() for folder in folders)


def write_results(runs: ModuleType, run_dir: Path) -> None:
    """What finished and measured runs leave behind; the frozen arm is a tenth of a nat better than the others."""
    for run in runs.all_runs():
        folder = run_dir / "runs" / run.name
        folder.mkdir(parents=True)
        (folder / "finished").touch()
        steps = range(runs.CURVE_INTERVAL, runs.STEPS + 1, runs.CURVE_INTERVAL)
        loss = 3.9 if run.arm == "frozen" else 4.0
        metrics = [{"step": n, "split": "validation", "loss_t2i": loss, "num_targets": 170} for n in steps]
        measures: list[dict[str, Any]] = []
        for step in range(runs.KEPT_INTERVAL, runs.STEPS + 1, runs.KEPT_INTERVAL):
            language = {"max_abs_diff": 0.0, "kl_divergence": 0.0, "facts": 0.5}
            measures.append({"what": "language", "step": step, **language})
            measures.append({"what": "drawing", "step": step, "guidance": 3.0, "fidelity": 0.5, "num_images": 4})
        measures.append({"what": "guidance", "step": step, "guidance": 1.5, "fidelity": 0.25, "num_images": 4})
        for name, rows in (("metrics", metrics), ("measures", measures)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_stages(run_dir: Path) -> None:
    """What examples/stages.sh leaves behind, with two seeds of K = 4."""
    direct = {"fidelity": 0.8, "passes": 64, "seconds": 20.0, "count": 600}
    scores: dict[str, Any] = {"stage1, enlarged": {"fidelity": 0.9}, "stage2, direct": direct}
    for name, k, seconds, fidelity in (("a", 4, 4.0, 0.9), ("b", 1, 30.0, 0.95), ("c", 4, 6.0, 0.8)):
        variant = {"next_k": k, "order": "regions" if k > 1 else "raster", "passes": 64 // k, "seconds": seconds}
        scores[name] = {**variant, "fidelity": fidelity, "at temperature 1": {"fidelity": fidelity - 0.1}}
    (run_dir / "stages").mkdir()
    (run_dir / "stages" / "scores.json").write_text(json.dumps(scores))


def test_the_report_says_what_was_measured(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(scripts["runs"], tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", "--run-dir", str(tmp_path)])
    with pytest.raises(ValueError, match="stages/scores.json is not there; run examples/reproduce/run.sh again"):
        scripts["report"].main()
    write_stages(tmp_path)
    scripts["report"].main()
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "Likelihoods are of 10 images" in text
    assert (
        "SemVIE, text frozen, step 1200: better than shared by 0.100 (0.100, 0.100, 0.100) nats per image token" in text
    )
    assert text.count(". Agrees (") == 2 and text.count(". Does not agree (") == 6
    assert "| 1.5 | 0.250 (0.250, 0.250, 0.250) |" in text
    assert "| high resolution at once (stage II) | 0.800 |  | 64 |  |" in text
    assert "| stage III, K = 1 | 0.950 (0.950) | 0.850 (0.850) | 64 | 1.50 |" in text
    assert "| stage III, K = 4, regions | 0.850 (0.900, 0.800) | 0.750 (0.800, 0.700) | 16 | 0.25 |" in text
    assert all((tmp_path / f"{name}.png").is_file() for name in ("likelihood", "joint", "fidelity", "drift"))
    (tmp_path / "runs" / "shared_2" / "finished").unlink()
    with pytest.raises(ValueError, match="shared_2/finished is not there; run examples/reproduce/run.sh again"):
        scripts["report"].main()
