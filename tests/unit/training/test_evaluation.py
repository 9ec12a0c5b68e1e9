"""Suites of scores in a run: they are those of tools/evaluate.py, and the run does not notice them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mars_megatron.config.schema import RunConfig
from mars_megatron.evaluation.jobs import make_jobs
from mars_megatron.evaluation.runner import evaluate
from mars_megatron.training import Trainer
from tests.support.metrics import configured, lines, losses
from tests.support.tiny_run import TinyRun, with_index, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(run: TinyRun) -> RunConfig:
    return configured(with_index(run), training__eval_interval=2, training__eval_batches=64)


@pytest.fixture
def suites(run: TinyRun, tmp_path: Path) -> dict[str, Any]:
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "a red ", "answer": "square", "group": "en"}\n')
    return {
        "likelihood": {},
        "drawn": {"suite": "prompt_fidelity", "prompts": run.prompts, "images": run.images, "controls": True},
        "facts": {"facts": str(facts)},
        "text": {"base": run.checkpoint, "texts": run.prompts},
    }


def evaluated(config: RunConfig, suites: dict[str, Any]) -> RunConfig:
    return configured(config, evaluation__interval=2, evaluation__suites=json.dumps(suites))


def test_a_run_does_not_notice_its_suites(tiny: RunConfig, suites: dict[str, Any], tmp_path: Path) -> None:
    without, with_suites = tmp_path / "without", tmp_path / "with"
    Trainer(configured(tiny, checkpoint__dir=without)).run()
    random_state = torch.get_rng_state()
    Trainer(evaluated(configured(tiny, checkpoint__dir=with_suites), suites)).run()
    assert torch.equal(torch.get_rng_state(), random_state)
    written = lines(with_suites)
    assert [line for line in losses(with_suites) if ("split", "evaluation") not in line] == losses(without)
    found = {line["step"]: line for line in written if line["split"] == "evaluation"}
    assert list(found) == [2, 4]
    validated = {line["step"]: line for line in written if line["split"] == "validation"}
    for step in (2, 4):
        # eval_batches are all there are
        assert found[step]["likelihood/nats_per_visual_token"] == pytest.approx(validated[step]["visual_loss"])
        assert found[step]["likelihood/nats_per_text_token/i2t"] == pytest.approx(validated[step]["text_loss"])
        assert found[step]["text/logits_max_abs_diff"] == 0.0
    folders = with_suites / "evaluation" / "in_training"
    assert sorted(path.name for path in folders.iterdir()) == ["step_00000002", "step_00000004"]
    assert sorted(path.name for path in (folders / "step_00000004").iterdir()) == sorted(f"{s}.json" for s in suites)

    later = evaluate(with_suites, make_jobs(suites | {"all": {"suite": "likelihood", "index": tiny.data.path}}, "test"))
    whole, held_out = later.pop("all").scores, later["likelihood"].scores
    for name in ("nats_per_visual_token/t2i", "nats_per_text_token/i2t"):
        assert 0 < held_out[name].count < whole[name].count == 30, "an observation is a sample"
    scores = {f"{label}/{name}": s.value for label, report in later.items() for name, s in report.scores.items()}
    assert scores == pytest.approx({name: value for name, value in found[4].items() if name not in ("step", "split")})
    # without an index the run's own data are an input
    manifest = Path(f"{tiny.data.path}.json")
    before = manifest.read_text()
    manifest.write_text(before + " ")
    with pytest.raises(ValueError, match=r"likelihood.json is a result with other inputs\.data;"):
        evaluate(with_suites, make_jobs({"likelihood": {}}, "test"))
    manifest.write_text(before)


def test_wrong_suites_are_refused_before_training(tiny: RunConfig, tmp_path: Path) -> None:
    for suites, message in (
        ({"facts": {"facts": "/none"}}, "facts /none is not a file"),
        ({"facts": {}}, "evaluation.suites: facts: .* required: facts"),
        ({"other": {}}, "evaluation.suites: other is 'other'; accepted: prompt_fidelity, "),
    ):
        trainer = Trainer(evaluated(configured(tiny, checkpoint__dir=tmp_path / "run"), suites))
        with pytest.raises(ValueError, match=message):
            trainer.run()
        assert trainer.position.step == 0
