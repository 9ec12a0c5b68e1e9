"""Checkpoints move between Pythons, and so between the releases of megatron-core that serve them, in both directions.

MARS_OTHER_PYTHON names the other interpreter, of an environment that examples/setup.sh made: tests/other_python.sh.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import run_ranks

OTHER = os.environ.get("MARS_OTHER_PYTHON", "")
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not OTHER, reason="MARS_OTHER_PYTHON names no other interpreter"),
]

SAVED_AT, STEPS = 3, 6
TENSOR, EXPERT = {"parallel.tensor": 2, "parallel.sequence": True}, {"parallel.expert": 2}
RUNS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one": {}, "plain": {"parallel.distributed_optimizer": False}, "bf16": {"training.precision": "bf16"}},
    2: {"tensor": TENSOR, "expert": EXPERT, "routed": {**EXPERT, "experts.visual": 4, "router.condition": "text"}},
}


def test_the_other_interpreter_is_another() -> None:
    here, there = (run_ranks(1, "versions", {}, python=python) for python in (sys.executable, OTHER))
    assert here["python"].split(".")[:2] != there["python"].split(".")[:2], (here, there)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("num_ranks", RUNS)
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_a_run_goes_on_under_the_other_python(tmp_path: Path, num_ranks: int, back: bool) -> None:
    """With the same parameters, and the same losses as if it had not been moved."""
    first, second = (OTHER, sys.executable) if back else (sys.executable, OTHER)
    corpus = write_corpus(tmp_path / "train")
    runs = [
        {"data.path": corpus, "training.steps": STEPS, "checkpoint.dir": str(tmp_path / name), **settings}
        for name, settings in RUNS[num_ranks].items()
    ]
    expected = run_ranks(num_ranks, "sum_and_losses", {"runs": runs, "steps": SAVED_AT}, python=first)
    found = run_ranks(num_ranks, "sum_and_losses", {"runs": runs, "steps": 0}, python=second)
    for name, (total, *losses), (their_total, *their_losses) in zip(RUNS[num_ranks], found, expected, strict=True):
        assert total == pytest.approx(their_total, rel=1e-12), name
        assert len(losses) == STEPS - SAVED_AT and losses == pytest.approx(their_losses, rel=1e-4), name
