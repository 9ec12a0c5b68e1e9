"""Every layout trains like one rank."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

FULL, SELECTIVE = {"recompute.granularity": "full"}, {"recompute.granularity": "selective"}
BLOCK = {**FULL, "recompute.method": "block"}
TENSOR, PIPELINE = {"parallel.tensor": 2}, {"parallel.pipeline": 2}
SEQUENCE = {**TENSOR, "parallel.sequence": True}
INTERLEAVED = {**PIPELINE, "parallel.virtual_pipeline": 2}
NO_SHARDED_OPTIMIZER = {"parallel.distributed_optimizer": False}

# Of twenty: an error of a gradient shows from the second on.
FIRST_STEPS = 6

LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one": {}, "full": FULL, "block": BLOCK, "selective": SELECTIVE, "plain optimizer": NO_SHARDED_OPTIMIZER},
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


# Adam hides the size of gradients unless eps is large; here their sums over ranks and their norm decide the losses.
QK_NORM = {
    **{"model.qk_norm": True, "model.qkv_bias": False, "model.init_std": 0.4, "training.steps": 5},
    **{"optimizer.lr": 1.0, "optimizer.eps": 1.0, "optimizer.weight_decay": 0.0, "optimizer.clip_grad": 1.0},
}
QK_NORM_MODELS: dict[str, dict[str, Any]] = {
    "qk norm": QK_NORM,
    "qk norm, all trained": {**QK_NORM, "freeze.text": False, "freeze.norms": False},
}
QK_NORM_LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one": {}},
    2: {"tensor": TENSOR, "sequence": SEQUENCE},
    4: {"tensor x pipeline": {**TENSOR, **PIPELINE}},
}
QK_NORM_RUNS = {
    num_ranks: {
        f"{model}, {name}": {**settings, **layout}
        for model, settings in QK_NORM_MODELS.items()
        for name, layout in layouts.items()
    }
    for num_ranks, layouts in QK_NORM_LAYOUTS.items()
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "train")


Trained = Callable[[int], dict[str, list[float]]]


@pytest.fixture(scope="module")
def trained(corpus: str) -> Trained:
    """The losses of all runs on a number of ranks, by name, on several ranks of the first steps; they share the ranks'
    processes."""

    @cache
    def on(num_ranks: int) -> dict[str, list[float]]:
        named = LAYOUTS[num_ranks] | QK_NORM_RUNS[num_ranks]
        runs = [{"data.path": corpus, **run} for run in named.values()]
        steps = 20 if num_ranks == 1 else FIRST_STEPS
        return dict(zip(named, run_ranks(num_ranks, "losses", {"runs": runs, "steps": steps}), strict=True))

    return on


@pytest.fixture(scope="module")
def reference(trained: Trained) -> list[float]:
    return trained(1)["one"]


def test_reference_learns(reference: list[float]) -> None:
    assert len(reference) == 20
    assert reference[-1] < reference[0] - 0.1


@pytest.mark.parametrize("num_ranks", LAYOUTS)
def test_losses_equal_one_rank(num_ranks: int, trained: Trained, reference: list[float]) -> None:
    for name in LAYOUTS[num_ranks]:
        losses = trained(num_ranks)[name]
        assert len(losses) >= FIRST_STEPS and losses == pytest.approx(reference[: len(losses)], rel=1e-4), name


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("model", QK_NORM_MODELS)
def test_qk_norm_equals_one_rank(model: str, num_ranks: int, trained: Trained) -> None:
    """Every tensor-parallel rank has the gradients of its own heads alone: a sum left out is 1e-4 of a loss."""
    expected = trained(1)[f"{model}, one"]
    for name in QK_NORM_LAYOUTS[num_ranks]:
        assert trained(num_ranks)[f"{model}, {name}"] == pytest.approx(expected, rel=2e-6), name


@pytest.mark.parametrize(
    ("num_ranks", "names"), [(2, ("sequence", "pipeline", "interleaved", "data")), (4, ("tensor x pipeline",))]
)
def test_whole_runs_with_validation_equal_one_rank(
    num_ranks: int, names: tuple[str, ...], corpus: str, tmp_path: Path
) -> None:
    """`Trainer.run`: steps, validation, checkpoint and the finished mark under each layout."""
    run = {"data.path": corpus, "training.steps": 4, "training.eval_interval": 2, "training.eval_batches": 2}
    expected = run_ranks(1, "run", {"runs": [{**run, "checkpoint.dir": str(tmp_path / "one")}]})[0]
    assert len(expected) == 6  # four steps and two validations
    runs = [{**run, **LAYOUTS[num_ranks][name], "checkpoint.dir": str(tmp_path / name)} for name in names]
    for name, losses in zip(names, run_ranks(num_ranks, "run", {"runs": runs}), strict=True):
        assert losses == pytest.approx(expected, rel=1e-4), name
        assert (tmp_path / name / "finished").is_file() and (tmp_path / name / "latest").is_file()


VARIANTS: dict[str, dict[str, Any]] = {
    "expert norms": {"model.expert_norms": True},
    "shared projection": {"model.expert_output_projection": False},
    "loss by modality": {"loss.vocabulary": "modality", "loss.text_weight": 3.0},
    "everything trained": {"freeze.text": False, "freeze.norms": False},
    "shared experts": {
        "model.shared_experts": True,
        "model.qk_norm": True,
        "freeze.text": False,
        "freeze.norms": False,
    },
    "language model": {"freeze.text": False, "freeze.visual": True, "freeze.norms": False},
}


def test_variants_equal_one_rank(corpus: str) -> None:
    """Each variant of the model under sequence parallelism and under a pipeline, four steps."""
    runs = [{"data.path": corpus, "training.steps": 4, **variant} for variant in VARIANTS.values()]
    reference = run_ranks(1, "losses", {"runs": runs})
    split = run_ranks(2, "losses", {"runs": [{**run, **layout} for layout in (SEQUENCE, PIPELINE) for run in runs]})
    assert len({tuple(losses) for losses in reference}) == len(VARIANTS), "a variant changes nothing"
    for name, expected, *found in zip(VARIANTS, reference, split[: len(runs)], split[len(runs) :], strict=True):
        for losses in found:
            assert losses == pytest.approx(expected, rel=1e-4), name


def test_bf16_stays_close_to_fp32(corpus: str, reference: list[float]) -> None:
    run = {"data.path": corpus, "training.precision": "bf16", **SEQUENCE}
    assert run_ranks(2, "losses", {"runs": [run]})[0] == pytest.approx(reference, rel=2e-2)
