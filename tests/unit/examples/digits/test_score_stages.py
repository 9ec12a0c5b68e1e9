"""examples/digits/score_stages.py: what is scored is not scored again, and what is missing is added."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples.digits import score_stages


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, whose models are stand-ins."""

    class Score:
        def __init__(self, run_dir: Path, per_prompt: int) -> None:
            self.count = 2 * per_prompt  # of two prompts

        def reference(self) -> dict[str, Any]:
            return {score_stages.DIRECT: {"count": self.count}}

        def super_resolution(self, name: str) -> dict[str, Any]:
            if name == "cut":
                raise KeyboardInterrupt
            return {"count": self.count}

    monkeypatch.setattr(score_stages, "Score", Score)
    return score_stages


def test_only_what_is_missing_is_scored(score: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    with pytest.raises(KeyboardInterrupt):
        score.score_missing(tmp_path, ["a", "cut"], 3)
    assert set(json.loads((tmp_path / "scores.json").read_text())) == {score.DIRECT, "a"}
    # as many images as are there, if not told otherwise
    assert score.score_missing(tmp_path, ["a", "b"], None)["b"] == {"count": 6}
    with pytest.raises(ValueError, match="is of 3 images of each prompt, --samples-per-prompt is 4; delete it"):
        score.score_missing(tmp_path, ["a"], 4)
    monkeypatch.delattr(score, "Score")
    assert set(score.score_missing(tmp_path, ["a", "b"], None)) == {score.DIRECT, "a", "b"}
