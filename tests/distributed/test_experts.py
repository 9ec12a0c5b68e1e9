"""Expert parallelism trains like one rank, with one expert per modality and with several behind routers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distributed.corpus import write_corpus
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

EXPERT = {"parallel.expert": 2}
SEQUENCE = {"parallel.tensor": 2, "parallel.sequence": True}
PIPELINE = {"parallel.pipeline": 2}
# Larger than the defaults, so that a wrong factor shows in the losses.
LOSSES = {"router.balance_loss": 0.1, "router.z_loss": 0.01}

EXPERTS: dict[str, dict[str, Any]] = {
    "one each": {},
    "visual 4": {"experts.visual": 4, **LOSSES},
    "text 2, visual 4, top 2": {"experts.text": 2, "experts.visual": 4, "router.top_k": 2, **LOSSES},
    "conditioned": {"experts.visual": 2, "router.condition": "text", **LOSSES},
    "no text at all": {"experts.visual": 2, "data.tasks.i2t": 0, "data.caption_dropout": 1.0, "training.steps": 6},
    "all trained": {"experts.text": 2, "experts.visual": 2, "freeze.text": False, "training.steps": 6, **LOSSES},
}
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "expert": EXPERT,
        "expert, full recompute": {**EXPERT, "recompute.granularity": "full"},
        "sequence": SEQUENCE,
    },
    4: {
        "expert x tensor": {**EXPERT, **SEQUENCE},
        "expert x pipeline": {**EXPERT, **PIPELINE},
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Few documents without images: some micro-batches have no visual token, and some no text."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "train")


def _run(corpus: str, *settings: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = {"data.path": corpus}
    for part in settings:
        run.update(part)
    return run


@pytest.fixture(scope="module")
def reference(corpus: str) -> dict[str, list[float]]:
    runs = [_run(corpus, experts) for experts in EXPERTS.values()]
    return dict(zip(EXPERTS, run_ranks(1, "losses", {"runs": runs}), strict=True))


def test_reference_learns_and_every_variant_differs(reference: dict[str, list[float]]) -> None:
    assert len(reference["visual 4"]) == 20
    for name, losses in reference.items():
        assert losses[-1] < losses[0], name
    assert len({tuple(losses[:6]) for losses in reference.values()}) == len(EXPERTS)


@pytest.mark.parametrize("num_ranks", LAYOUTS)
def test_losses_equal_one_rank(num_ranks: int, corpus: str, reference: dict[str, list[float]]) -> None:
    cases = [(layout, experts) for layout in LAYOUTS[num_ranks] for experts in EXPERTS]
    runs = [_run(corpus, EXPERTS[experts], LAYOUTS[num_ranks][layout]) for layout, experts in cases]
    for case, losses in zip(cases, run_ranks(num_ranks, "losses", {"runs": runs}), strict=True):
        assert losses == pytest.approx(reference[case[1]], rel=1e-4), case
