"""Each data-parallel rank reads its own micro-batches alone, and of a tensor-parallel group one rank reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.corpus import write_corpus
from tests.distributed.ranks import run_ranks

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
