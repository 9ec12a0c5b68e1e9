"""The quickstart meets its bars. About eight minutes on two cores: bash tests/run.sh tests/long -m long"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_prompt_fidelity(run: tuple[dict[str, Any], str, Path]) -> None:
    report, _, folder = run
    assert report["num_samples"] >= 500
    assert report["prompt_fidelity"] >= 0.95
    assert set(report["prompt_fidelity_by_language"]) == {"en", "zh"}
    assert len(report["prompt_fidelity_by_digit"]) == 10
    assert min(report["prompt_fidelity_by_digit"].values()) >= 0.80
    assert (folder / "samples.png").stat().st_size > 0


def test_models_that_must_fail_do(run: tuple[dict[str, Any], str, Path]) -> None:
    assert max(run[0]["controls"].values()) <= 0.3


def test_captions(run: tuple[dict[str, Any], str, Path]) -> None:
    assert run[0]["caption_accuracy"] >= 0.95


def test_text_is_preserved(run: tuple[dict[str, Any], str, Path]) -> None:
    assert run[0]["text_logits_max_abs_diff"] == 0.0
    assert run[0]["frozen_tensors_changed"] == []
    assert run[0]["config"]["freeze"]["text"] is True


def test_image_tokenizer(run: tuple[dict[str, Any], str, Path]) -> None:
    report, printed, _ = run
    used, size = map(int, re.search(r"codes in use (\d+) of (\d+)", printed).groups())  # type: ignore[union-attr]
    assert (size, used >= 200) == (256, True)
    assert report["classifier_accuracy_reconstructed"] >= report["classifier_accuracy_real"] - 0.01


def test_time(run: tuple[dict[str, Any], str, Path]) -> None:
    assert run[0]["seconds"]["total"] <= 8 * 60
