"""Each data-parallel rank reads its own micro-batches alone, and of a tensor-parallel group one rank reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import run_ranks
from tests.support.synthetic_index import write_synthetic

pytestmark = pytest.mark.distributed


def test_what_is_read_where(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "train")
    run = {"data.path": corpus, "parallel.tensor": 2, "data.prefetch": 2}
    ranks = run_ranks(4, "what_is_read", {"run": run, "num": 5})
    assert [rank["opened"] for rank in ranks] == [["train", "validation"], [], ["train", "validation"], []]
    for reader, other, parity in ((ranks[0], ranks[1], 0), (ranks[2], ranks[3], 1)):
        assert other["given"] == reader["given"] and not other["read"]
        assert len(set(reader["given"])) == 10
        assert {number % 2 for number in reader["read"]} == {parity}
        assert len(reader["read"]) == 5 + 2 + 5, "training with what is prefetched, and validation"
    assert not set(ranks[0]["given"]) & set(ranks[2]["given"])


def test_workers_and_prefetching_change_nothing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "train")
    base = {"data.path": corpus, "training.steps": 4, "parallel.tensor": 2}
    runs = [{**base, "data.prefetch": depth, "data.num_workers": num} for depth, num in ((0, 0), (1, 0), (3, 2))]
    one, *others = run_ranks(2, "losses", {"runs": runs})
    assert others == [one, one]


def blend_of_all_tasks(folder: Path) -> dict[str, Any]:
    """Settings of a run over two corpora that together have documents of every kind."""
    images = write_synthetic(folder / "images", ["image"] * 80, seed=1)
    mixed = write_synthetic(folder / "mixed", ["pair", "text", "interleaved"] * 30, seed=2, weights=True)
    tasks = {"t2i": 0.0, "i2t": 0.0, "sr": 0.4, "text": 0.2, "interleaved": 0.4}
    blend = [{"path": images, "weight": 0.4}, {"path": mixed, "weight": 0.6, "tasks": tasks}]
    return {
        "data.path": "",
        "data.blend": json.dumps(blend),
        "data.tasks.text": 0.0,
        "image.low_resolution": 8,
        "data.validation_fraction": 0.1,
    }


def test_a_blend_of_all_tasks_trains_alike_under_every_layout(tmp_path: Path) -> None:
    run = {**blend_of_all_tasks(tmp_path), "training.steps": 8}
    (expected,) = run_ranks(1, "losses", {"runs": [run]})
    layouts: list[dict[str, Any]] = [
        {"parallel.tensor": 2, "parallel.sequence": True},
        {"parallel.pipeline": 2},
        {"parallel.pipeline": 2, "parallel.virtual_pipeline": 2},
        {"data.num_workers": 1},
        {"parallel.expert": 2},
    ]
    for layout, found in zip(
        layouts, run_ranks(2, "losses", {"runs": [{**run, **layout} for layout in layouts]}), strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-4), layout


def test_a_blend_is_resumed_under_another_data_parallel_size(tmp_path: Path) -> None:
    """Losses after a stop are those of an uninterrupted run: the batches are the same."""
    run = {**blend_of_all_tasks(tmp_path), "training.steps": 9}
    (expected,) = run_ranks(1, "losses", {"runs": [run]})
    stopped = {**run, "checkpoint.dir": str(tmp_path / "run")}
    run_ranks(1, "save_after", {"runs": [stopped], "steps": 4})
    (found,) = run_ranks(4, "resume", {"runs": [stopped]})
    assert found == pytest.approx(expected[4:], rel=1e-4)
