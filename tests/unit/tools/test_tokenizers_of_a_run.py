"""The tokenizers of a run are those that it was trained with, from wherever its checkpoints are used."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from mars_megatron.checkpoint import latest, read_config
from mars_megatron.checkpoint.tokenizers import RECORD, read_record
from mars_megatron.conversion.checkpoints import open_checkpoint
from mars_megatron.conversion.verify import compare_logits
from mars_megatron.tokenizers.tokenizer_files import image_fingerprint, text_fingerprint
from tests.support.run_folder import (
    STEP,
    Train,
    carried,
    exported,
    made,
    place,
    refused,
    replace_both,
    tool,
    trained,
    words,
)

__all__ = ["made", "place", "trained"]


def test_what_a_run_keeps(made: Path) -> None:
    run = made / "home" / "runs" / "x"
    assert {path.name for path in run.iterdir()} >= {"tokenizer.model", "image_tokenizer", STEP}
    assert not list(run.glob("*.incomplete"))
    record = read_record(run / STEP)
    assert record["text_tokenizer"] == text_fingerprint(run / "tokenizer.model")
    assert record["text_tokenizer"] == text_fingerprint(made / "home" / "text.model")
    assert record["image_tokenizer"] == image_fingerprint(run / "image_tokenizer")
    assert not (run / "image_tokenizer" / "README.md").exists()
    assert read_config(run / STEP).data.text_tokenizer == "text.model", "what was configured stays as it was said"


def test_a_run_is_used_from_another_folder_moved_and_through_links(made: Path, place: Path, tmp_path: Path) -> None:
    os.chdir(made / "home")
    there = exported_in(tmp_path, made / "home" / "runs" / "x")
    os.chdir(tmp_path / "elsewhere")
    run = place / "home" / "runs" / "x"
    assert exported(run) == there
    # Nothing of the folder that it was trained in is left.
    moved = tmp_path / "moved run"
    shutil.move(run, moved)
    shutil.rmtree(place)
    assert exported(moved / STEP) == there
    by_content = carried(moved)
    links = tmp_path / "links"
    links.mkdir()
    (links / STEP).symlink_to(moved / STEP)
    assert carried(links / STEP) == carried(Path(os.path.relpath(moved))) == by_content
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "a red ", "answer": "square"}\n')
    assert (
        tool("generate", "--checkpoint", moved, "--prompt", "a red square", "--output", "images", "--num-images", 1)
        == 0
    )
    assert tool("evaluate", "facts", moved, "--facts", facts) == 0


def exported_in(folder: Path, source: Path) -> tuple[list[str], str]:
    """`exported`, with the result in a folder of its own."""
    here = os.getcwd()
    assert tool("convert_checkpoint", "export-hf", source, folder / "first", "--no-progress") == 0
    os.chdir(folder)
    (folder / "first").rename(folder / "exported")
    found = words(folder / "exported"), image_fingerprint(folder / "exported" / "image_tokenizer")
    os.chdir(here)
    return found


def test_what_replaced_a_tokenizer_is_not_taken(place: Path, capsys: Any) -> None:
    home = place / "home"
    run = home / "runs" / "x"
    before = exported(run)
    replace_both(place)
    os.chdir(home)
    assert exported(run) == before
    # Without the copies nothing is right any more, and each is refused by name. What needs none goes on.
    (run / "tokenizer.model").unlink()
    shutil.rmtree(run / "image_tokenizer")
    shutil.rmtree("exported")
    assert tool("convert_checkpoint", "export-hf", run, "exported", "--no-progress") == 2
    refused(capsys, "text tokenizer of", "image tokenizer of", "text.model", "another one", "--text-tokenizer")
    assert not Path("exported").exists()
    facts = place / "facts.jsonl"
    facts.write_text('{"prompt": "a red ", "answer": "square"}\n')
    for line in (
        ("generate", "--checkpoint", run, "--prompt", "a red square", "--output", "images"),
        ("evaluate", "facts", run, "--facts", facts),
    ):
        assert tool(*line) == 2
        refused(capsys, "the text tokenizer of", str(run / STEP), "another one (text.model")
    opened = open_checkpoint(run)
    assert set(compare_logits(opened, opened).values()) == {0.0}


def test_a_step_alone(place: Path, tmp_path: Path, capsys: Any) -> None:
    before = carried(place / "home" / "runs" / "x")
    alone = tmp_path / "alone" / STEP
    shutil.copytree(place / "home" / "runs" / "x" / STEP, alone)
    assert tool("convert_checkpoint", "export-hf", alone, "exported", "--no-progress") == 2
    refused(capsys, str(alone), "neither beside it nor where it was: there is none", "--image-tokenizer")
    options = "--text-tokenizer", place / "home" / "text.model", "--image-tokenizer", place / "home" / "vq"
    exported(alone, *options)
    # Where they are named, seen from the folder that the checkpoint lies in.
    shutil.copyfile(place / "home" / "text.model", alone.parent / "text.model")
    shutil.copytree(place / "home" / "vq", alone.parent / "vq")
    assert carried(alone) == before
    # The folder that it was trained in.
    for path in (alone.parent / "text.model", alone.parent / "vq"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.chdir(place / "home")
    assert carried(alone) == before


def test_a_tokenizer_that_is_given_is_taken_with_a_warning_if_it_is_another_one(place: Path) -> None:
    run, others = place / "home" / "runs" / "x", place / "others"
    before = exported(run)
    with pytest.warns(UserWarning, match=r"data\.text_tokenizer is .*text\.model, another one than .* was made with"):
        text, images = exported(run, "--text-tokenizer", others / "text.model")
    assert text != before[0] and images == before[1]
    with pytest.warns(UserWarning, match=r"data\.image_tokenizer is .*vq, another one than"):
        line = "--checkpoint", run, "--prompt", "a red square", "--output", "images", "--num-images", 1
        assert tool("generate", *line, "--image-tokenizer", others / "vq") == 0


def test_a_run_goes_on_with_its_own_tokenizers(place: Path, trained: Train, capsys: Any) -> None:
    home = place / "home"
    run = home / "runs" / "x"
    options = f"--checkpoint.dir={run}", f"--data.path={home / 'index'}"
    # From a folder where the paths lead nowhere; then where something else lies there.
    assert trained(run / STEP / "config.yaml", *options, "--training.steps=3") == 0
    Path("text.model").write_bytes((place / "others" / "text.model").read_bytes())
    assert trained(run / STEP / "config.yaml", *options, "--training.steps=4") == 0
    newest = latest(run)
    assert newest is not None and newest.name == "step_00000004"
    assert read_record(newest) == read_record(run / "step_00000003")
    assert {path.name for path in run.iterdir() if "tokenizer" in path.name} == {"tokenizer.model", "image_tokenizer"}
    # Another one that is asked for by its name.
    capsys.readouterr()
    other = f"--data.image_tokenizer={place / 'others' / 'vq'}"
    assert trained(newest / "config.yaml", *options, "--training.steps=5", other) == 2
    refused(
        capsys, "data.image_tokenizer is", "another one than", "to resume, or start a new run with checkpoint.init_"
    )
    # One that is nowhere any more.
    (run / "tokenizer.model").unlink()
    (home / "text.model").unlink()
    assert trained(newest / "config.yaml", *options, "--training.steps=5") == 2
    refused(capsys, "the text tokenizer of", "neither beside it nor where it was", "another one (text.model)")


def test_a_run_that_samples_goes_on_after_a_move(place: Path, trained: Train, tmp_path: Path) -> None:
    home, moved = place / "home", tmp_path / "moved"
    shutil.move(home / "runs" / "x", moved)
    (home / "text.model").unlink()
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "a red ", "answer": "square"}\n')
    suites = json.dumps({"facts": {"facts": str(facts)}})
    assert (
        trained(
            moved / STEP / "config.yaml",
            f"--checkpoint.dir={moved}",
            f"--data.path={home / 'index'}",
            "--training.steps=3",
            "--logging.sample_interval=1",
            "--logging.tensorboard=true",
            '--logging.sample_prompts=["a red square"]',
            "--evaluation.interval=1",
            f"--evaluation.suites={suites}",
        )
        == 0
    )
    assert read_record(moved / "step_00000003") == read_record(moved / STEP)


def test_a_run_from_another_one(place: Path, trained: Train, tmp_path: Path) -> None:
    home = place / "home"
    first, options = home / "runs" / "x", (f"--data.path={home / 'index'}", "--init-from")
    assert trained(home / "run.yaml", *options, str(first), "--checkpoint.dir=second", "--training.steps=1") == 0
    assert read_record(Path("second/step_00000001")) == read_record(first / STEP)
    assert carried(Path("second")) == carried(first)
    # With another tokenizer it is said; without an index to compare with, nothing else would say so.
    with pytest.warns(UserWarning, match=r"data\.image_tokenizer is .* another one than"), pytest.raises(SystemExit):
        sys.exit(
            trained(
                home / "run.yaml",
                *options,
                str(first),
                f"--data.image_tokenizer={place / 'others' / 'vq'}",
                "--checkpoint.dir=third",
            )
        )


def test_a_run_that_starts_over_with_another_tokenizer_keeps_both(place: Path, trained: Train) -> None:
    home = place / "home"
    run = home / "runs" / "x"
    before = carried(run / STEP)
    (run / "latest").unlink()
    replace_both(place)
    os.chdir(home)
    line = ["build", "--input", "images", "--output", "index2", "--text-tokenizer", "text.model"]
    line += ["--image-tokenizer", "vq"]
    assert tool("index_data", *line, "--resolution", 8, "--workers", 0, "--no-progress") == 0
    assert trained(home / "run.yaml", "--data.path=index2", "--training.steps=1") == 0
    assert len(list(run.glob("tokenizer*"))) == len(list(run.glob("image_tokenizer*"))) == 2
    after = carried(run)
    assert after[0] != before[0] and after[1] != before[1]
    assert carried(run / STEP) == before


def test_a_damaged_copy_is_made_again(place: Path, trained: Train) -> None:
    home = place / "home"
    run = home / "runs" / "x"
    before = carried(run)
    (run / "tokenizer.model").write_bytes(b"half")
    (run / "image_tokenizer.incomplete").mkdir()
    os.chdir(home)
    assert carried(run) == before, "the named one will do"
    assert trained(home / "run.yaml", "--training.steps=3") == 0
    (home / "text.model").unlink()
    assert carried(run) == before


def test_older_checkpoints_are_used_as_before(place: Path, tmp_path: Path, capsys: Any) -> None:
    home = place / "home"
    run = home / "runs" / "x"
    before = carried(run)
    (run / STEP / RECORD).unlink()
    os.chdir(home)
    assert carried(run) == before
    # What stands at the path is taken as it is; where nothing does, what lies beside.
    replace_both(place)
    assert carried(run) != before
    os.chdir(tmp_path / "elsewhere")
    assert carried(run) == before
    (run / "tokenizer.model").unlink()
    assert tool("convert_checkpoint", "export-hf", run, "exported", "--no-progress") == 2
    refused(capsys, "text tokenizer text.model does not exist")


def test_a_damaged_record_is_named(place: Path, capsys: Any) -> None:
    run = place / "home" / "runs" / "x"
    for text in ("{", "[]", '{"text_tokenizer": 3}'):
        (run / STEP / RECORD).write_text(text)
        assert tool("convert_checkpoint", "export-hf", run, "exported") == 2
        refused(capsys, f"{STEP}/{RECORD} is damaged")


def test_a_run_without_tokenizers(place: Path, trained: Train) -> None:
    options = "--data.text_tokenizer=", "--data.image_tokenizer=", "--checkpoint.dir=plain", "--training.steps=1"
    assert trained(place / "home" / "run.yaml", f"--data.path={place / 'home' / 'index'}", *options) == 0
    assert sorted(path.name for path in Path("plain").iterdir()) == [
        "data_cache", "finished", "latest", "metrics.jsonl", "step_00000001",
    ]  # fmt: skip
    assert not (Path("plain") / "step_00000001" / RECORD).exists()
    assert tool("convert_checkpoint", "export-hf", "plain", "exported", "--no-progress") == 0


def test_images_are_made_again_after_a_move(place: Path, tmp_path: Path, capsys: Any) -> None:
    run, moved = place / "home" / "runs" / "x", tmp_path / "moved"
    line = "--checkpoint", run, "--prompt", "a red square", "--output", "images", "--num-images", 1
    assert tool("generate", *line, "--text-tokenizer", place / "home" / "text.model") == 0
    replace_both(place)
    assert tool("generate", "--again", "images/manifest.jsonl") == 0
    shutil.move(run, moved)
    shutil.rmtree(place)
    assert tool("generate", "--again", "images/manifest.jsonl", "--checkpoint", moved, "--output", "again") == 0
    assert capsys.readouterr().out.count("as the manifest says, 1") == 2


def test_scores_are_found_again_after_a_move(place: Path, tmp_path: Path, capsys: Any) -> None:
    run, moved = place / "home" / "runs" / "x", tmp_path / "moved"
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "a red ", "answer": "square"}\n')
    assert tool("evaluate", "facts", run, "--facts", facts) == 0
    shutil.move(run, moved)
    shutil.rmtree(place)
    capsys.readouterr()
    assert tool("evaluate", "facts", moved, "--facts", facts) == 0
    assert "from an earlier run" in capsys.readouterr().out
