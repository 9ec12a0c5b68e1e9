"""metrics.jsonl: what is written, and what a resumed run forgets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig
from mars_megatron.training import metrics
from mars_megatron.training.metrics import METRICS_FILE, MetricsWriter

pytestmark = pytest.mark.usefixtures("one_rank")


def config_of(base: RunConfig, folder: Path | str, **logging: bool) -> RunConfig:
    return override(base, [f"--checkpoint.dir={folder}", *(f"--logging.{name}={v}" for name, v in logging.items())])


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def test_lines(base: RunConfig, run_folder: Path) -> None:
    writer = MetricsWriter(config_of(base, run_folder), 0)
    writer.write(1, "train", {"loss": 2.5, "text_loss": None, "lr": 0.0})
    # Written at once: a run that is killed has its lines.
    assert lines(run_folder) == [{"step": 1, "split": "train", "loss": 2.5, "lr": 0.0}]
    writer.write(1, "validation", {"loss": 3.0})
    writer.close()
    assert lines(run_folder)[1:] == [{"step": 1, "split": "validation", "loss": 3.0}]


def test_a_table_is_one_line_and_many_curves(base: RunConfig, run_folder: Path) -> None:
    """The loads of layers x experts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    table = [[0.25, 0.75], [1.0, 0.0]]
    writer = MetricsWriter(config_of(base, run_folder, tensorboard=True), 0)
    writer.write(4, "train", {"visual_expert_load": table, "text_expert_load": None})
    writer.close()
    assert lines(run_folder) == [{"step": 4, "split": "train", "visual_expert_load": table}]
    events = EventAccumulator(str(run_folder / "tensorboard")).Reload()
    for layer, row in enumerate(table):
        for expert, share in enumerate(row):
            (event,) = events.Scalars(f"train/visual_expert_load/layer_{layer}_expert_{expert}")
            assert (event.step, event.value) == (4, share)


def test_a_resumed_run_drops_what_came_after_its_checkpoint(base: RunConfig, run_folder: Path) -> None:
    run_folder.mkdir()
    kept = [{"step": step, "split": "train", "loss": 1.0} for step in (1, 2, 3)]
    kept.insert(2, {"step": 2, "split": "validation", "loss": 1.5})
    dropped = [{"step": step, "split": "train", "loss": 9.0} for step in (4, 5)]
    text = "".join(json.dumps(line) + "\n" for line in kept + dropped)
    (run_folder / METRICS_FILE).write_text(text, encoding="utf-8")
    writer = MetricsWriter(config_of(base, run_folder), 3)
    assert lines(run_folder) == kept
    writer.write(4, "train", {"loss": 0.5})
    writer.close()
    assert lines(run_folder) == [*kept, {"step": 4, "split": "train", "loss": 0.5}]
    assert [path.name for path in run_folder.iterdir()] == [METRICS_FILE]


@pytest.mark.parametrize("half", ['{"step": 2, "split": "tr', '{"step": 2', "{"])
def test_half_a_line_is_dropped(base: RunConfig, run_folder: Path, half: str) -> None:
    run_folder.mkdir()
    whole = {"step": 1, "split": "train", "loss": 1.0}
    (run_folder / METRICS_FILE).write_text(json.dumps(whole) + "\n" + half, encoding="utf-8")
    writer = MetricsWriter(config_of(base, run_folder), 2)
    writer.write(3, "train", {"loss": 0.5})
    writer.close()
    assert lines(run_folder) == [whole, {"step": 3, "split": "train", "loss": 0.5}]


def test_a_new_run_in_an_old_folder_starts_empty(base: RunConfig, run_folder: Path) -> None:
    run_folder.mkdir()
    (run_folder / METRICS_FILE).write_text('{"step": 1, "split": "train"}\n', encoding="utf-8")
    MetricsWriter(config_of(base, run_folder), 0).close()
    assert lines(run_folder) == []


def test_without_a_folder_nothing_is_written(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = MetricsWriter(config_of(base, "", tensorboard=True), 0)
    writer.write(1, "train", {"loss": 1.0})
    writer.write_images(1, np.zeros((4, 4, 3), dtype=np.uint8))
    writer.say("said")
    writer.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == "said\n"


def test_other_ranks_write_nothing(
    base: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics.torch.distributed, "get_rank", lambda: 1)
    writer = MetricsWriter(config_of(base, run_folder, tensorboard=True, progress=True), 0)
    writer.write(1, "train", {"loss": 1.0})
    writer.step_done()
    writer.say("said")
    writer.close()
    assert not run_folder.exists() and capsys.readouterr() == ("", "")


def test_progress_bar(base: RunConfig, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = MetricsWriter(config_of(base, run_folder, progress=True), 2)
    writer.step_done()
    writer.write(3, "train", {"loss": 1.2345, "lr": 0.01})
    writer.write(3, "validation", {"loss": 2.5})
    writer.close()
    out = capsys.readouterr()
    assert "step 3: validation loss 2.5000" in out.out
    assert "3/6" in out.err and "loss=1.234" in out.err and "lr=1.0e-02" in out.err


def test_tensorboard(base: RunConfig, run_folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(config_of(base, run_folder, tensorboard=True), 0)
    writer.write(2, "train", {"loss": 1.5, "text_loss": None})
    writer.write_images(2, np.full((4, 6, 3), 200, dtype=np.uint8))
    writer.close()
    events = EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"] and events.Tags()["images"] == ["samples"]
    (scalar,), (image,) = events.Scalars("train/loss"), events.Images("samples")
    assert (scalar.step, scalar.value) == (2, 1.5) and (image.step, image.height, image.width) == (2, 4, 6)
