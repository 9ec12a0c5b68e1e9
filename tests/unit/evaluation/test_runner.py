"""Suites on a checkpoint: their scores, their files, and what is not computed twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from mars_megatron.config.schema import to_dict
from mars_megatron.evaluation import context
from mars_megatron.evaluation.facts import Facts
from mars_megatron.evaluation.jobs import Job, make_jobs
from mars_megatron.evaluation.prompt_fidelity import PromptFidelity
from mars_megatron.evaluation.results import fingerprint_of
from mars_megatron.evaluation.runner import UNFINISHED, evaluate
from mars_megatron.sampling import Sampler
from tests.support.command_lines import load_tool
from tests.support.tiny_run import TinyRun, with_index, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("evaluate")


@pytest.fixture
def facts(tmp_path: Path) -> str:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "a red ", "answer": "square", "group": "en"}\n')
    return str(path)


def test_tool_runs_every_suite(
    tool: ModuleType, run: TinyRun, facts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = {
        "prompt_fidelity": {
            "prompts": run.prompts,
            "images": run.images,
            "samples_per_prompt": 2,
            "controls": True,
            "grid": str(tmp_path / "grid.png"),
        },
        "captions": {"images": run.images, "label_words": run.words, "max_captions": 7},
        "facts": {"facts": facts},
        "text": {"base": run.checkpoint, "texts": run.prompts},
        "all_ids": {"suite": "text", "base": run.checkpoint},
    }
    (tmp_path / "suites.json").write_text(json.dumps(suites))
    line = ["all", run.checkpoint, "--config", str(tmp_path / "suites.json"), "--guidance", "1.5"]
    output = tmp_path / "scores"
    assert tool.main([*line, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == sorted(f"{label}.json" for label in suites)
    reports = {label: json.loads((output / f"{label}.json").read_text()) for label in suites}
    scores = {label: {name: s["value"] for name, s in report["scores"].items()} for label, report in reports.items()}

    fidelity = scores["prompt_fidelity"]
    assert set(fidelity) == {
        *("prompt_fidelity", "prompt_fidelity/group/en", "prompt_fidelity/group/zh"),
        *(f"prompt_fidelity/label/{label}" for label in range(3)),
        *("classifier_accuracy/real", "classifier_accuracy/reconstructed"),
        *("control/experts_swapped", "control/visual_from_text"),
    }
    by_label = [fidelity[f"prompt_fidelity/label/{label}"] for label in range(3)]
    assert fidelity["prompt_fidelity"] == pytest.approx(sum(by_label) / 3)
    assert fidelity["classifier_accuracy/real"] == 1.0  # the colours are plain to see
    assert 0 <= fidelity["classifier_accuracy/reconstructed"] < 1  # the image tokenizer was never trained
    assert reports["prompt_fidelity"]["scores"]["prompt_fidelity"]["count"] == 12
    assert reports["captions"]["scores"]["caption_accuracy"]["count"] == 7
    assert set(scores["facts"]) == {"completion_accuracy", "completion_accuracy/group/en"}
    text = scores["text"]
    assert text["logits_max_abs_diff"] == text["frozen_tensors_changed"] == text["divergence_from_base"] == 0.0
    assert text["perplexity"] == text["base_perplexity"] > 1
    assert set(scores["all_ids"]) == {"logits_max_abs_diff", "frozen_tensors_changed"}
    assert reports["all_ids"]["details"]["num_tokens"] == run.config.vocabulary.text_size - 2

    config = to_dict(run.config)
    assert reports["facts"]["config"]["model"] == config["model"]
    assert reports["facts"]["config"]["generation"] == {**config["generation"], "guidance": 1.5}
    assert reports["facts"]["model"]["step"] == 1 and reports["facts"]["settings"]["guidance"] == 1.5
    assert sum(report["seconds"] for report in reports.values()) > 0
    assert "95% interval" in printed and f"facts: {output / 'facts.json'}" in printed
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.height > 6 * 64


def test_another_base_is_found_out(run: TinyRun, tmp_path: Path) -> None:
    other = write_run(tmp_path, seed=99)
    jobs = make_jobs({"text": {"base": other.checkpoint, "texts": run.prompts}}, "test")
    report = evaluate(run.checkpoint, jobs, tmp_path / "out")["text"]
    assert report.scores["logits_max_abs_diff"].value > 0.01
    assert report.scores["divergence_from_base"].value > 0.01
    above = report.scores["nats_per_token_above_base"]
    ratio = report.scores["perplexity"].value / report.scores["base_perplexity"].value
    assert above.value == pytest.approx(torch.tensor(ratio).log().item(), rel=1e-5)
    changed = report.details["frozen_tensors_changed"]
    assert report.scores["frozen_tensors_changed"].value == len(changed) > 0
    assert "decoder.layers.0.attention.linear_qkv.text.weight" in changed
    assert not any(".visual." in name for name in changed)


def test_a_result_is_kept(run: TinyRun, facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    suite_run = Facts.run

    def counted(self: Facts, context: Any) -> Any:
        calls.append(self.facts)
        return suite_run(self, context)

    monkeypatch.setattr(Facts, "run", counted)
    jobs, output = [Job("facts", Facts(facts))], tmp_path / "out"
    said: list[str] = []
    first = evaluate(run.checkpoint, jobs, output)
    assert evaluate(run.checkpoint, jobs, output, say=said.append) == first
    assert len(calls) == 1 and "from an earlier run" in said[0] and "completion_accuracy" in said[1]
    evaluate(run.checkpoint, jobs, output, again=True)
    assert len(calls) == 2
    other_settings = {"overrides": ["--generation.seed=9"]}
    with pytest.raises(ValueError, match=r"facts.json is a result with other settings\.seed; replace it with --again"):
        evaluate(run.checkpoint, jobs, output, **other_settings)  # type: ignore[arg-type]
    Path(facts).write_text('{"prompt": "a green ", "answer": "square"}\n')
    with pytest.raises(ValueError, match=r"with other inputs\.facts"):
        evaluate(run.checkpoint, jobs, output)
    (output / "facts.json").write_text("[]")
    with pytest.raises(ValueError, match="is no result of an evaluation"):
        evaluate(run.checkpoint, jobs, output)
    assert len(calls) == 2


def test_results_of_a_run_are_beside_its_checkpoints(run: TinyRun, facts: str) -> None:
    evaluate(run.checkpoint, [Job("facts", Facts(facts))])
    folder = Path(run.checkpoint) / "evaluation"
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.json")] == ["step_00000001/facts.json"]
    shutil.rmtree(folder)


def test_drawing_goes_on(run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception between two chunks; then nothing is drawn twice, and the scores are those of one go."""
    drawn: list[int] = []
    sample_each = Sampler.sample_each

    def limited(limit: int) -> None:
        def counted(self: Sampler, texts: Any, indices: Any, **keywords: Any) -> torch.Tensor:
            if len(drawn) == limit:
                raise KeyboardInterrupt
            drawn.append(len(texts))
            return sample_each(self, texts, indices, **keywords)

        monkeypatch.setattr(Sampler, "sample_each", counted)

    small = {"overrides": ["--generation.batch_size=5"]}
    fidelity = PromptFidelity(run.prompts, run.images, samples_per_prompt=2, controls=True)
    jobs = [Job("one", fidelity), Job("two", PromptFidelity(run.prompts, run.images, samples_per_prompt=2))]
    limited(100)
    whole = evaluate(run.checkpoint, jobs, tmp_path / "whole", **small)  # type: ignore[arg-type]
    # 12 images in 3 chunks, of the model and of both controls; the second suite draws nothing of its own.
    assert drawn == [5, 5, 2] * 3
    assert not (tmp_path / "whole" / UNFINISHED).exists()
    drawn.clear()
    limited(5)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run.checkpoint, jobs, tmp_path / "cut", **small)  # type: ignore[arg-type]
    limited(100)
    drawn.clear()
    # with other batches, which change nothing
    later = evaluate(run.checkpoint, jobs, tmp_path / "cut", overrides=["--generation.batch_size=4"])
    assert drawn == [2, 4, 4, 4]
    assert {label: report.scores for label, report in later.items()} == {
        label: report.scores for label, report in whole.items()
    }


def test_computing_goes_on(run: TinyRun, facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run after an interruption computes what is missing of every suite, and gets the scores of one go."""
    index = with_index(run).data.path
    suites = {
        "captions": {"images": run.images, "label_words": run.words},
        "facts": {"facts": facts},
        "text": {"base": run.checkpoint, "texts": run.prompts},
        "all_ids": {"suite": "text", "base": run.checkpoint},
        "likelihood": {"index": index, "micro_batch_tokens": 96},
    }
    jobs, batches = make_jobs(suites, "test"), {"overrides": ["--generation.batch_size=2"]}
    calls: list[str] = []
    over_replicas = context.over_replicas

    def limited(limit: int) -> None:
        calls.clear()

        def counted(count: int, group: Any, work: Any) -> Any:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append("call")
            return over_replicas(count, group, work)

        monkeypatch.setattr(context, "over_replicas", counted)

    limited(1000)
    whole = evaluate(run.checkpoint, jobs, tmp_path / "whole", **batches)  # type: ignore[arg-type]
    total, interruptions = len(calls), 0
    done: dict[str, Any] = {}
    while not done:
        limited(2)
        # the same checkpoint by another path
        checkpoint = os.path.relpath(run.checkpoint) if interruptions % 2 else run.checkpoint
        try:
            done = evaluate(checkpoint, jobs, tmp_path / "cut", **batches)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions == (total - 1) // 2 > 4
    assert {label: report.scores for label, report in done.items()} == {
        label: report.scores for label, report in whole.items()
    }
    assert not (tmp_path / "cut" / UNFINISHED).exists()


def test_again_computes_what_was_finished(
    run: TinyRun, facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a suite behind it was interrupted, and what it had is kept."""
    completed: list[str] = []
    complete = Sampler.complete

    def counted(self: Sampler, texts: Any, settings: Any = None) -> list[str]:
        completed.extend(texts)
        return complete(self, texts, settings)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sampler, "complete", counted)
    monkeypatch.setattr(Sampler, "caption", interrupted)
    suites = {"facts": {"facts": facts}, "captions": {"images": run.images, "label_words": run.words}}
    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            evaluate(run.checkpoint, make_jobs(suites, "test"), tmp_path, again=True)
        assert len(completed) == times


def test_tool_reports_errors(tool: ModuleType, run: TinyRun, facts: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in (
        (["facts", run.checkpoint, "--facts", "/none"], "facts /none is not a file"),
        (["facts", "/none", "--facts", facts], "/none holds no complete checkpoint"),
        (["likelihood", run.checkpoint, "--output", f"{facts}.out"], "data.path is empty"),
        (["all", run.checkpoint, "--config", "/none"], "/none does not exist"),
        (["prompt_fidelity", run.checkpoint, "--prompts", run.prompts, "--images", "/none"], "/none/captions.jsonl"),
        (
            ["captions", run.checkpoint, "--images", run.images, "--label-words", run.words, "--max-captions", "-1"],
            "max_captions is -1; accepted: 0 or more",
        ),
    ):
        assert tool.main(line) == 2, line
        assert message in capsys.readouterr().err


def test_fingerprints_follow_contents(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    folder.mkdir()
    file.write_text("a")
    first, of_folder = fingerprint_of(file), fingerprint_of(folder)
    assert fingerprint_of(tmp_path / "none") == ""
    (folder / "image.png").write_text("x")
    file.write_text("b")
    assert fingerprint_of(file) not in ("", first) and fingerprint_of(folder) != of_folder
    file.write_text("a")
    assert fingerprint_of(file) == first
    prefix = tmp_path / "index"
    (tmp_path / "index.idx").write_text("x")
    of_index = fingerprint_of(prefix)
    (tmp_path / "index.idx").write_text("y")
    assert fingerprint_of(prefix) not in ("", of_index)
    copied = shutil.copytree(folder, tmp_path / "copy")
    os.utime(copied / "image.png", (0, 0))
    assert fingerprint_of(copied) == fingerprint_of(folder), "a copy is the same, whatever its times"
    (copied / "inner").mkdir()
    (copied / "inner" / "deep.png").write_text("x")
    of_copy = fingerprint_of(copied)
    (copied / "inner" / "deep.png").write_text("y")
    assert fingerprint_of(copied) != of_copy


def test_files_behind_names_have_fingerprints(tmp_path: Path) -> None:
    """A scorer of the user's or weights that are changed give another result."""
    scorer = tmp_path / "mine.py"
    for name in (f"{scorer}:score", f"inception:{scorer}", f"compositional:{tmp_path}"):
        scorer.write_text("one")
        first = fingerprint_of(name)
        scorer.write_text("two")
        assert fingerprint_of(name) not in ("", first), name
    assert fingerprint_of("openai/clip-vit-base-patch16") == fingerprint_of("nobody:nothing") == ""
    assert fingerprint_of("tests.support.command_lines:load_tool") != ""


def test_a_base_is_its_checkpoint(run: TinyRun, tmp_path: Path) -> None:
    """Results and logs beside the checkpoints of a run are no other base."""
    base = tmp_path / "base"
    shutil.copytree(run.checkpoint, base)
    jobs = make_jobs({"text": {"base": str(base)}}, "test")
    first = evaluate(base, jobs)
    assert (base / "evaluation").is_dir()
    assert evaluate(base, jobs) == first


def test_another_tokenizer_is_found_out(run: TinyRun, facts: str, tmp_path: Path) -> None:
    """Of the same name as before, and another one."""
    tokenizer = tmp_path / "text.model"
    shutil.copy(run.config.data.text_tokenizer, tokenizer)
    keywords: dict[str, Any] = {"overrides": [f"--data.text_tokenizer={tokenizer}"]}
    jobs, output = [Job("facts", Facts(facts))], tmp_path / "out"
    evaluate(run.checkpoint, jobs, output, **keywords)
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"with other inputs\.text_tokenizer"):
        evaluate(run.checkpoint, jobs, output, **keywords)
