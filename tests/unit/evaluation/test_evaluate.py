"""The whole report of a checkpoint, and tools/evaluate.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mars_megatron.config.yaml_io import to_dict
from mars_megatron.evaluation import EvaluationRequest, evaluate
from tests.command_lines import load_tool
from tests.unit.generation.tiny_run import TinyRun, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("evaluate")


def test_tool_reports_every_score(
    tool: ModuleType, run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "a red ", "answer": "square", "group": "en"}\n')
    report_file, grid = tmp_path / "report.json", tmp_path / "samples.png"
    arguments = {
        "--checkpoint": run.checkpoint,
        "--prompts": run.prompts,
        "--images": run.images,
        "--label-words": run.words,
        "--base": run.checkpoint,
        "--facts": str(facts),
        "--grid": str(grid),
        "--output": str(report_file),
        "--samples-per-prompt": "2",
        "--max-captions": "7",
        "--label-name": "color",
        "--group-name": "language",
        "--guidance": "1.5",
    }
    words = [word for pair in arguments.items() for word in pair]
    tool.run(tool.parse_arguments([*words, "--controls"]))
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert f"{report_file}: written after" in capsys.readouterr().out

    assert report["num_samples"] == 12 and report["num_captions"] == 7
    assert set(report["prompt_fidelity_by_language"]) == {"en", "zh"}
    by_color = report["prompt_fidelity_by_color"]
    assert set(by_color) == {"0", "1", "2"}
    assert report["prompt_fidelity"] == pytest.approx(sum(by_color.values()) / 3)
    assert set(report["controls"]) == {"experts_swapped", "visual_from_text"}
    assert report["classifier_accuracy_real"] == 1.0  # the colours are plain to see
    assert 0 <= report["classifier_accuracy_reconstructed"] < 1  # through an image tokenizer that was never trained
    assert 0 <= report["caption_accuracy"] <= 1 and set(report["completion_accuracy_by_language"]) == {"en"}
    assert report["text_logits_max_abs_diff"] == 0.0 and report["frozen_tensors_changed"] == []
    assert report["seconds"]["total"] > 0 and {"load", "classifier", "sample", "captions"} < set(report["seconds"])
    config = to_dict(run.config)
    assert report["config"]["model"] == config["model"]
    assert report["config"]["generation"] == {**config["generation"], "guidance": 1.5}
    with Image.open(grid) as picture:
        assert picture.height > 6 * 64


def test_another_base_is_found_out(run: TinyRun, tmp_path: Path) -> None:
    other = write_run(tmp_path, seed=99)
    report = evaluate(EvaluationRequest(checkpoint=run.checkpoint, base=other.checkpoint))
    assert report["text_logits_max_abs_diff"] > 0.01
    assert "decoder.layers.0.attention.linear_qkv.text.weight" in report["frozen_tensors_changed"]
    assert not any(".visual." in name for name in report["frozen_tensors_changed"])
    assert "prompt_fidelity" not in report


def test_contradictory_requests_are_refused() -> None:
    for request, message in (
        ({}, "nothing to score"),
        ({"prompts": "p"}, "need a folder of real images"),
        ({"label_words": "w"}, "need a folder of real images"),
        ({"base": "b", "controls": True}, "need prompts"),
        ({"base": "b", "samples_per_prompt": 0}, "samples per prompt is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            EvaluationRequest(checkpoint="c", **request)


def test_tool_reports_errors(tool: ModuleType, run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--checkpoint", run.checkpoint, "--prompts", "/none", "--images", run.images]) == 2
    assert "prompts /none is not a file" in capsys.readouterr().err
