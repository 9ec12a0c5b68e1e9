"""Checkpoints: bitwise under the same layout, equal under another, and safe against a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mars_megatron.checkpoint import folders, latest
from mars_megatron.conversion.verify import compare, open_both
from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import ROOT, environment, run_ranks
from tests.support.waiting import wait_until

pytestmark = pytest.mark.distributed

TENSOR, PIPELINE, EXPERT = {"parallel.tensor": 2}, {"parallel.pipeline": 2}, {"parallel.expert": 2}
ROUTED = {"experts.visual": 4, "router.condition": "text"}
# Layouts of the same sizes stand together: their runs share process groups, which take a while to make.
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "plain": (1, {"parallel.distributed_optimizer": False}),
    "routed": (1, ROUTED),
    "tensor": (2, {**TENSOR, "parallel.sequence": True}),
    "routed, tensor": (2, {**ROUTED, **TENSOR, "parallel.sequence": True}),
    "pipeline": (2, PIPELINE),
    "interleaved": (2, {**PIPELINE, "parallel.virtual_pipeline": 2}),
    "data": (2, {}),
    "expert": (2, EXPERT),
    "both": (4, {**TENSOR, **PIPELINE}),
    "expert, plain": (2, {**EXPERT, "parallel.distributed_optimizer": False}),
    "routed, expert": (2, {**ROUTED, **EXPERT}),
    "expert x data": (4, EXPERT),
    "routed, expert x tensor": (4, {**ROUTED, **EXPERT, **TENSOR, "parallel.sequence": True}),
}
# Each of these is resumed as each other one.
ALL_PAIRS = ("one", "tensor", "pipeline", "both", "data", "expert")
# Where a layout's checkpoint is resumed, beside the layout itself and the pairs above.
MORE_TARGETS = {
    "one": ("interleaved",),
    "interleaved": ("one", "data"),
    "expert x data": ("one",),
    "routed": ("routed, expert",),
    "routed, expert": ("routed", "routed, tensor", "routed, expert x tensor"),
    "routed, tensor": ("routed, expert",),
    "routed, expert x tensor": ("routed, expert",),
}
SAVED_AT = 3
# Parameters begin equal and go three steps of 1e-3 at most, with rounding of their own; at random they are 0.1 apart.
PARTS_APART = 5e-3


def _targets(source: str) -> list[str]:
    """The layouts under which a run goes on that was saved under `source`."""
    pairs = ALL_PAIRS if source in ALL_PAIRS else (source,)
    return list(dict.fromkeys((*pairs, *MORE_TARGETS.get(source, ()))))


def _run(source: str, layout: str, corpus: str, root: Path) -> dict[str, Any]:
    """The run begun under `source`, under another layout. Its weights of every kind are trained."""
    return {
        "data.path": corpus,
        "checkpoint.dir": str(root / source),
        "training.global_batch_size": 4 if source == "expert x data" else 2,
        "training.steps": SAVED_AT + (5 if source in ALL_PAIRS else 2),
        "model.qk_norm": True,
        **LAYOUTS[layout][1],
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "train")


@pytest.fixture(scope="module")
def saved(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """A folder with a run of every layout, saved on its way, and their losses from there to their ends."""
    root = tmp_path_factory.mktemp("runs")
    result: dict[str, list[float]] = {}
    for num_ranks in (1, 2, 4):
        names = [name for name in LAYOUTS if LAYOUTS[name][0] == num_ranks]
        runs = [_run(name, name, corpus, root) for name in names]
        losses = run_ranks(num_ranks, "save_after", {"runs": runs, "steps": SAVED_AT})
        result |= dict(zip(names, losses, strict=True))
    return root, result


def _start(source: str, layout: str, corpus: str, root: Path) -> dict[str, Any]:
    """A new run that takes parameters and optimiser of the one saved under `source`."""
    start = {"init_from": str(root / source), "init_visual": "keep", "init_optimizer": "keep", "dir": ""}
    run = _run(source, layout, corpus, root) | {f"checkpoint.{name}": value for name, value in start.items()}
    return {**run, "training.steps": 4, "data.seed": 5}


Resumed = Callable[[int], tuple[dict[tuple[str, str], list[float]], dict[str, list[float]]]]


@pytest.fixture(scope="module")
def resumed(saved: tuple[Path, dict[str, list[float]]], corpus: str) -> Resumed:
    """On a number of ranks, in one process per rank: the losses of every (source, target) pair whose target has them,
    resumed, and of runs that were started with the optimiser of the one rank's, by their layout."""
    root, _ = saved

    @cache
    def on(num_ranks: int) -> tuple[dict[tuple[str, str], list[float]], dict[str, list[float]]]:
        targets = [target for target in LAYOUTS if LAYOUTS[target][0] == num_ranks]
        pairs = [(source, target) for target in targets for source in LAYOUTS if target in _targets(source)]
        starts = [target for target in targets if target in ALL_PAIRS]
        runs = [_run(source, target, corpus, root) for source, target in pairs]
        runs += [_start("one", target, corpus, root) for target in starts]
        losses = run_ranks(num_ranks, "resume", {"runs": runs})
        return dict(zip(pairs, losses[: len(pairs)], strict=True)), dict(zip(starts, losses[len(pairs) :], strict=True))

    return on


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_resumed_losses_equal_the_uninterrupted_run(
    saved: tuple[Path, dict[str, list[float]]], resumed: Resumed, num_ranks: int
) -> None:
    _, uninterrupted = saved
    for (source, target), losses in resumed(num_ranks)[0].items():
        expected = uninterrupted[source]
        assert len(losses) == len(expected) >= (5 if source in ALL_PAIRS else 2)
        if source == target:
            assert losses == expected, f"{source} is not bitwise equal after resuming"
        else:
            assert losses == pytest.approx(expected, rel=1e-4), f"{source} resumed as {target}"


def test_a_kept_optimizer_is_the_same_under_every_layout(resumed: Resumed) -> None:
    expected = resumed(1)[1]["one"]
    for num_ranks in (2, 4):
        for layout, losses in resumed(num_ranks)[1].items():
            assert losses == pytest.approx(expected, rel=1e-4), layout
    assert len(resumed(2)[1]) == 4


def test_kill_while_saving_keeps_the_previous_checkpoint(corpus: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = {
        "data.path": corpus,
        "training.steps": 6,
        "checkpoint.dir": str(root),
        # Large enough that the kill falls into the writing.
        "model.hidden_size": 512,
        "model.ffn_hidden_size": 1024,
        "training.global_batch_size": 1,
    }
    process = subprocess.Popen(
        # Without torchrun, whose workers would outlive it.
        [sys.executable, "-m", "tests.support.distributed.start", "save_every_step", json.dumps({"run": run})],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    half_written = folders.incomplete(folders.step_folder(root, 3))
    wait_until(lambda: half_written.is_dir() and any(half_written.iterdir()), process)
    os.killpg(process.pid, signal.SIGKILL)  # the writers too
    process.wait()
    assert half_written.is_dir(), "the kill came after the checkpoint was complete: nothing was tested"
    assert not folders.step_folder(root, 3).exists()
    assert latest(root) == folders.step_folder(root, 2)
    with pytest.raises(ValueError, match="not completely written"):
        folders.resolve(half_written)
    losses = run_ranks(1, "resume", {"runs": [run]})[0]
    assert len(losses) == 4  # steps 3 to 6
    shutil.rmtree(root)


def test_checkpoint_of_another_shape_is_refused(saved: tuple[Path, dict[str, list[float]]], corpus: str) -> None:
    run = {**_run("one", "one", corpus, saved[0]), "model.ffn_hidden_size": 96}
    with pytest.raises(RuntimeError, match=r"model\.ffn_hidden_size is 96, the checkpoint has 64"):
        run_ranks(1, "resume", {"runs": [run]})


def test_what_is_saved_is_of_no_layout(saved: tuple[Path, dict[str, list[float]]]) -> None:
    root, _ = saved
    for names in (ALL_PAIRS, [name for name in LAYOUTS if name.startswith("routed")]):
        for name in names[1:]:
            result = compare(*open_both(root / names[0], root / name), tolerance=PARTS_APART)
            assert result.num_compared > 100 and not result.problems, (name, result.problems[:3])
