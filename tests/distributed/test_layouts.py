"""Every layout trains like one rank."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distributed.corpus import write_corpus
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

FULL, SELECTIVE = {"recompute.granularity": "full"}, {"recompute.granularity": "selective"}
BLOCK = {**FULL, "recompute.method": "block"}
TENSOR, PIPELINE = {"parallel.tensor": 2}, {"parallel.pipeline": 2}
SEQUENCE = {**TENSOR, "parallel.sequence": True}
INTERLEAVED = {**PIPELINE, "parallel.virtual_pipeline": 2}
NO_SHARDED_OPTIMIZER = {"parallel.distributed_optimizer": False}

LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"full": FULL, "block": BLOCK, "selective": SELECTIVE, "plain optimizer": NO_SHARDED_OPTIMIZER},
    2: {
        "tensor": TENSOR,
        "tensor, full": {**TENSOR, **FULL},
        "pipeline": PIPELINE,
        "pipeline, full": {**PIPELINE, **FULL},
        "data": {},
        "data, full": FULL,
        "data, plain optimizer": NO_SHARDED_OPTIMIZER,
        "sequence": SEQUENCE,
        "sequence, full": {**SEQUENCE, **FULL},
        "sequence, selective": {**SEQUENCE, **SELECTIVE},
        "interleaved": INTERLEAVED,
        "interleaved, full": {**INTERLEAVED, **FULL},
    },
    4: {
        "tensor x pipeline": {**TENSOR, **PIPELINE},
        "tensor x pipeline, full": {**TENSOR, **PIPELINE, **FULL},
        "sequence x data, selective": {**SEQUENCE, **SELECTIVE},
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "train")


def _runs(num_ranks: int, corpus: str) -> list[dict[str, Any]]:
    return [{"data.path": corpus, **layout} for layout in LAYOUTS[num_ranks].values()]


@pytest.fixture(scope="module")
def reference(corpus: str) -> list[float]:
    return run_ranks(1, "losses", {"runs": [{"data.path": corpus}]})[0]


def test_reference_learns(reference: list[float]) -> None:
    assert len(reference) == 20
    assert reference[-1] < reference[0] - 0.1


@pytest.mark.parametrize("num_ranks", LAYOUTS)
def test_losses_equal_one_rank(num_ranks: int, corpus: str, reference: list[float]) -> None:
    results = run_ranks(num_ranks, "losses", {"runs": _runs(num_ranks, corpus)})
    for name, losses in zip(LAYOUTS[num_ranks], results, strict=True):
        assert losses == pytest.approx(reference, rel=1e-4), name
