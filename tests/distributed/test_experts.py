"""Expert parallelism trains like one rank, with one expert per modality and with several behind routers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

EXPERT = {"parallel.expert": 2}
SEQUENCE = {"parallel.tensor": 2, "parallel.sequence": True}
PIPELINE = {"parallel.pipeline": 2}
# Larger than the defaults, so that a wrong factor shows in the losses.
LOSSES = {"router.balance_loss": 0.1, "router.z_loss": 0.01}

IMAGES_ALONE = {"data.tasks.i2t": 0, "data.tasks.text": 0, "data.caption_dropout": 1.0}
SHORT = {"training.steps": 5}
# Of the runs of twenty steps, under a layout: an error of a gradient shows from the second on.
FIRST_STEPS = 6
EXPERTS: dict[str, dict[str, Any]] = {
    "one each": {},
    "visual 4": {"experts.visual": 4, **LOSSES},
    "text 2, visual 4, top 2": {"experts.text": 2, "experts.visual": 4, "router.top_k": 2, **LOSSES, **SHORT},
    # A router begins without a view of the text: large steps give it one.
    "conditioned": {"experts.visual": 2, "router.condition": "text", "optimizer.lr": 0.02, **LOSSES, **SHORT},
    "not conditioned": {"experts.visual": 2, "optimizer.lr": 0.02, **LOSSES, **SHORT},
    "no text at all": {"experts.visual": 2, **IMAGES_ALONE, **SHORT},
    "visual frozen": {"experts.visual": 2, "freeze.visual": True, "freeze.text": False, **LOSSES, **SHORT},
    "all trained": {"experts.text": 2, "experts.visual": 2, "freeze.text": False, **LOSSES, **SHORT},
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
        "expert x data": EXPERT,
        "expert, interleaved": {**EXPERT, **PIPELINE, "parallel.virtual_pipeline": 2},
        "expert, plain optimizer": {**EXPERT, "parallel.distributed_optimizer": False},
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A quarter of the documents have no image: micro-batches of theirs have no visual token."""
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
    for name in ("one each", "visual 4"):
        assert len(reference[name]) == 20 and reference[name][-1] < reference[name][0] - 0.1
    assert len({tuple(losses[:5]) for losses in reference.values()}) == len(EXPERTS)


@pytest.mark.parametrize("num_ranks", LAYOUTS)
def test_losses_equal_one_rank(num_ranks: int, corpus: str, reference: dict[str, list[float]]) -> None:
    layouts = LAYOUTS[num_ranks]
    # All experts under the layouts proper, some under their variants.
    cases = [
        (layout, experts)
        for layout in layouts
        for experts, settings in EXPERTS.items()
        if layout in ("expert", "expert x tensor", "expert x pipeline") or "training.steps" in settings
    ]
    runs = [_run(corpus, EXPERTS[experts], layouts[layout]) for layout, experts in cases]
    found = run_ranks(num_ranks, "losses", {"runs": runs, "steps": FIRST_STEPS})
    for case, losses in zip(cases, found, strict=True):
        assert losses == pytest.approx(reference[case[1]][:FIRST_STEPS], rel=1e-4), case


def test_each_rank_holds_its_share_of_the_experts(corpus: str) -> None:
    """Equal losses alone would also come from ranks that hold all of them."""
    whole = 3 * 32 * 64  # gate, up and down of the tests' tiny model
    runs = [_run(corpus, EXPERT, experts) for experts in ({}, {"experts.visual": 4}, {"experts.text": 2})]
    runs[2]["experts.visual"] = 2
    assert run_ranks(2, "ffn_elements", {"runs": runs}) == [
        [whole // 2, whole // 2],
        [whole // 2, 2 * whole],
        [whole, whole],
    ]


def test_experts_cut_over_ranks_read_nothing_from_the_device(corpus: str) -> None:
    """The sizes of their exchanges come from the plans."""
    # Under sequence parallelism megatron-core compares random states in front of the layers, on the host.
    run = _run(corpus, EXPERT)
    assert len(set(run_ranks(2, "host_reads", {"run": run}))) > 1
    with pytest.raises(RuntimeError, match="HostRead"):  # the detector works there: learned routing does read
        run_ranks(2, "host_reads", {"run": {**run, **EXPERTS["visual 4"]}})


def test_experts_start_from_a_language_model(corpus: str, tmp_path: Path) -> None:
    """One text expert, whole or in slices, or two become the four visual ones, or these are drawn; under any layout."""
    base = {"freeze.text": False, "freeze.visual": True, "freeze.norms": False, "training.steps": 2}
    start = {**EXPERTS["visual 4"], "training.steps": 4}
    bases, starts = [], []
    for number in (1, 2):
        folder, text = str(tmp_path / str(number)), {"experts.text": number}
        # Two text experts need two visual ones at least; they are not loaded.
        bases.append(_run(corpus, base, text, {"experts.visual": number, "checkpoint.dir": folder}))
        starts.append(_run(corpus, start, text, {"checkpoint.init_from": folder}))
    starts.append({**starts[0], "checkpoint.init_visual": "random"})
    run_ranks(1, "save_after", {"runs": bases, "steps": 2})
    expected = run_ranks(1, "losses", {"runs": starts})
    assert expected[2] != expected[0]
    for num_ranks, names in ((2, ("expert",)), (4, ("expert x tensor", "expert x pipeline"))):
        runs = [{**run, **LAYOUTS[num_ranks][name]} for name in names for run in starts]
        for losses, wanted in zip(run_ranks(num_ranks, "losses", {"runs": runs}), expected * len(names), strict=True):
            assert losses == pytest.approx(wanted, rel=1e-4)


def test_a_whole_run_reports_the_loads(corpus: str, tmp_path: Path) -> None:
    """`Trainer.run` with validation under expert parallelism; the loads are those of one rank."""
    run = _run(corpus, EXPERTS["visual 4"], {"training.steps": 4, "training.eval_interval": 2})
    run |= {"training.eval_batches": 4, "logging.interval": 2}
    lines = []
    for num_ranks, layout in ((1, {}), (4, {**EXPERT, **SEQUENCE})):
        folder = tmp_path / str(num_ranks)
        run_ranks(num_ranks, "run", {"runs": [{**run, **layout, "checkpoint.dir": str(folder)}]})
        lines.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    one, other = lines
    assert [line["split"] for line in one] == ["train", "validation"] * 2
    assert len(one[0]["visual_expert_load"]) == 4 and sum(one[0]["visual_expert_load"][0]) == pytest.approx(1)
    assert "visual_expert_load" not in one[1]
    for got, expected in zip(other, one, strict=True):
        assert got["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        if got["split"] == "train":
            for name in ("visual_expert_load_max", "visual_balance_loss", "visual_router_z_loss"):
                assert got[name] == pytest.approx(expected[name], rel=1e-4)
            for got_layer, layer in zip(got["visual_expert_load"], expected["visual_expert_load"], strict=True):
                assert got_layer == pytest.approx(layer, abs=1e-6)
