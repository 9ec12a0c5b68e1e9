"""Scores do not depend on how many ranks share the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mars_megatron.checkpoint.tokenizers import read_record
from mars_megatron.config import to_yaml
from mars_megatron.config.schema import EvaluationConfig
from tests.support.distributed.evaluation_jobs import run_suites, score, train_with_suites
from tests.support.distributed.ranks import run_jobs
from tests.support.tiny_run import with_index, write_run

pytestmark = pytest.mark.distributed


@pytest.mark.skipif(torch.cuda.is_available(), reason="the ranks of the other process run on the CPU")
def test_two_ranks_score_what_one_rank_scores(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    checkpoint, suites, training = write_tiny(tmp_path)

    def scored(ranks: int, tensor: int) -> tuple[str, dict[str, Any]]:
        output = str(tmp_path / f"scores_{ranks}_{tensor}")
        return "run_suites", {"checkpoint": checkpoint, "suites": suites, "output": output, "tensor": tensor}

    def trained(ranks: int) -> tuple[str, dict[str, Any]]:
        settings = [f"--checkpoint.dir={tmp_path}/run_of_{ranks}"]
        return "train_with_suites", {"settings": settings, "config": training}

    jobs = [("score", {"folder": str(tmp_path)}), scored(2, tensor=2), scored(2, tensor=1), trained(2)]
    found, split, replicated, in_training = run_jobs(2, "evaluation_jobs", jobs)
    check_shared(found, score(str(tmp_path)))
    expected = run_suites(**scored(1, tensor=1)[1])
    assert split == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert replicated == pytest.approx(expected, rel=1e-6)  # the batches differ
    assert expected["likelihood/nats_per_visual_token/t2i"] > 1 and "drawn/control/experts_swapped" in expected
    assert in_training == pytest.approx(train_with_suites(**trained(1)[1]), rel=1e-4, abs=1e-4)
    # Both ranks used the run's tokenizers, of which one wrote the copies.
    copies = {name: read_record(tmp_path / f"run_of_{name}" / "step_00000004") for name in (1, 2)}
    assert copies[1] == copies[2] and set(copies[2]) == {"text_tokenizer", "image_tokenizer"}
    assert {path.name for path in (tmp_path / "run_of_2").glob("*tokenizer*")} == {"tokenizer.model", "image_tokenizer"}


def write_tiny(folder: Path) -> tuple[str, dict[str, Any], str]:
    """A checkpoint, suites that score it, and the configuration of a run that evaluates as it goes."""
    (folder / "tiny").mkdir()
    run = write_run(folder / "tiny")
    facts = folder / "facts.jsonl"
    facts.write_text("".join(f'{{"prompt": "a {word}", "answer": "square"}}\n' for word in ("red", "green", "blue")))
    config = with_index(run)
    suites: dict[str, Any] = {
        "likelihood": {"index": config.data.path},
        "drawn": {"suite": "prompt_fidelity", "prompts": run.prompts, "images": run.images, "controls": True},
        "captions": {"images": run.images, "label_words": run.words, "max_captions": 5},
        "facts": {"facts": str(facts)},
        "text": {"base": write_run_of_another_seed(folder), "texts": run.prompts},
    }
    evaluation = EvaluationConfig(2, {name: suites[name] for name in ("likelihood", "drawn", "facts")})
    (folder / "config.yaml").write_text(to_yaml(replace(config, evaluation=evaluation)))
    return run.checkpoint, suites, str(folder / "config.yaml")


def write_run_of_another_seed(folder: Path) -> str:
    (folder / "other").mkdir()
    return write_run(folder / "other", seed=99).checkpoint


def write_inputs(tmp_path: Path) -> None:
    """What `score` reads."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(9):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(7)))
    (tmp_path / "scorer.py").write_text(
        "def brightness(images, prompts):\n    return images.float().mean(dim=(1, 2, 3)) / 255\n"
    )


def check_shared(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected["frechet"] > 0 and expected["shared"] == [number * number for number in range(7)]
    assert found["frechet"] == pytest.approx(expected["frechet"], rel=1e-9)
    assert found["kept"] == found["frechet"] and found["statistics"] == expected["statistics"] == 1
    assert found["between_halves"] == pytest.approx(expected["between_halves"], rel=1e-9)
    assert found["brightness"] == expected["brightness"]
    assert (found["shared"], found["none"]) == (expected["shared"], [])
    assert found["few"] == pytest.approx(expected["few"])
