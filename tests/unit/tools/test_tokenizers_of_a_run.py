"""The tokenizers of a run are those that it was trained with, from wherever its checkpoints are used."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from mars_megatron import train
from mars_megatron.checkpoint import latest, read_config, resolve
from mars_megatron.checkpoint.tokenizers import RECORD, locate, read_record
from mars_megatron.config import to_yaml
from mars_megatron.conversion.formats import open_checkpoint
from mars_megatron.conversion.verify import compare_logits
from mars_megatron.tokenizers.fingerprint import image_fingerprint, text_fingerprint
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from mars_megatron.tokenizers.train_text import train_text_tokenizer
from tests.command_lines import load_tool
from tests.unit.conversion.models import language_model
from tests.unit.generation.tiny_run import CODEBOOK_SIZE, with_index, write_run
from tests.unit.training.test_trainer import configured

Train = Callable[..., int]
STEP = "step_00000002"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder "home" with tokenizers, an index, run.yaml, and the run runs/x of two steps that names them relatively.

    Another text and image tokenizer that would do as well lie in "others".
    """
    root = tmp_path_factory.mktemp("made")
    home = root / "home"
    home.mkdir()
    tiny = write_run(home)
    config = configured(
        with_index(tiny),
        data__path="index",
        data__text_tokenizer="text.model",
        data__image_tokenizer="vq",
        checkpoint__dir="runs/x",
        training__steps=2,
    )
    (home / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    (home / "vq" / "README.md").write_text("no part of it")
    others = root / "others"
    others.mkdir()
    text = others / "text.txt"
    text.write_text("something else to learn from\n" * 20, encoding="utf-8")
    train_text_tokenizer(text, others / "text.model", vocab_size=19)
    shape = ImageTrainingConfig(codebook_size=CODEBOOK_SIZE, code_dim=4, widths=(4, 4), norm_groups=2)
    make_model(shape).save_pretrained(others / "vq")
    shutil.rmtree(home / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "argv", ["train", "--config=run.yaml"])
        assert train.main() == 0
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of all that, at a path with a space; the process stands elsewhere."""
    root = tmp_path / "my files"
    shutil.copytree(made, root)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module=r"(megatron|torch)\..*")
        yield root


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Train:
    """`python -m mars_megatron.train` with a configuration and options."""

    def run(config: Path, *options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train", f"--config={config}", *options])
        return train.main()

    return run


def tool(name: str, *arguments: object) -> int:
    return load_tool(name).main([str(argument) for argument in arguments])


def words(folder: Path) -> list[str]:
    """The pieces of the text tokenizer in an exported folder."""
    model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [model.id_to_piece(number) for number in range(model.vocab_size())]


def exported(source: Path, *options: object) -> tuple[list[str], str]:
    """What `export-hf` carries: the words of the text tokenizer, and the image tokenizer's fingerprint."""
    target = Path("exported")
    shutil.rmtree(target, ignore_errors=True)
    assert tool("convert_checkpoint", "export-hf", source, target, "--no-progress", *options) == 0
    return words(target), image_fingerprint(target / "image_tokenizer")


def carried(source: Path) -> tuple[str, str]:
    """Fingerprints of what a run or checkpoint is used with."""
    config, missing = locate(resolve(source))
    assert not missing
    return text_fingerprint(config.data.text_tokenizer), image_fingerprint(config.data.image_tokenizer)


def refused(capsys: Any, *words: str) -> None:
    error = capsys.readouterr().err
    for word in words:
        assert word in error, error


def replace_both(root: Path) -> None:
    """Other tokenizers of the same shapes at the same paths."""
    for name in ("text.model", "vq"):
        source, target = root / "others" / name, root / "home" / name
        if source.is_dir():
            shutil.rmtree(target)
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


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


def test_conversions_carry_what_they_were_given(place: Path, trained: Train, tmp_path: Path) -> None:
    home = place / "home"
    language_model("qwen2").save_pretrained(home / "model")
    os.chdir(home)
    settings = "--data.text_tokenizer", "text.model", "--image-tokenizer", "vq"
    assert tool("convert_checkpoint", "init-from-hf", "model", "start", *settings, "--image.resolution", 8) == 0
    shutil.move("start", tmp_path / "start")
    shutil.rmtree(home / "vq")
    os.chdir(tmp_path / "elsewhere")
    text, images = carried(tmp_path / "start")
    assert images == image_fingerprint(home / "runs" / "x" / "image_tokenizer")
    # A run from it, by what it says of itself.
    options = "--init-from", str(tmp_path / "start"), f"--data.path={home / 'index'}", "--checkpoint.dir=run"
    assert trained(tmp_path / "start" / "model.yaml", *options, "--image.resolution=8", "--training.steps=1") == 0
    assert carried(Path("run")) == (text, images)
    # Its trained part alone, back onto its beginning.
    assert tool("convert_checkpoint", "extract-visual", "run", "visual.safetensors") == 0
    shutil.rmtree("run")
    assert tool("convert_checkpoint", "merge", tmp_path / "start", "visual.safetensors", "merged") == 0
    shutil.rmtree(tmp_path / "start")
    assert carried(Path("merged")) == (text, images)
    exported(Path("merged"))
    # Onto the language model, in whose folder another tokenizer lies now.
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(Path("exported") / name, home / "model" / name)
    with pytest.warns(UserWarning, match=r"the text tokenizer of .*model is another one than the parts were trained"):
        assert tool("convert_checkpoint", "merge", home / "model", "visual.safetensors", "other") == 0
    assert tool("convert_checkpoint", "import-hf", "exported", "back") == 0
    shutil.move("back", tmp_path / "back")
    assert tool("convert_checkpoint", "export-hf", tmp_path / "back", "again", "--no-progress") == 0


def test_a_hugging_face_folder(place: Path, trained: Train, tmp_path: Path) -> None:
    """Of a language model: its tokenizer is copied, its weights are not; the prompts of both are the same."""
    home = place / "home"
    exported(home / "runs" / "x")
    folder = home / "language model"
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(Path("exported") / name, folder / name)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    os.chdir(home)
    line = ["build", "--input", "images", "--output", "index2", "--text-tokenizer", folder, "--image-tokenizer", "vq"]
    assert tool("index_data", *line, "--resolution", 8, "--workers", 0, "--no-progress") == 0
    settings = "--data.path=index2", "--data.text_tokenizer=language model", "--checkpoint.dir=y"
    assert trained(home / "run.yaml", *settings, "--training.steps=1") == 0
    copy = home / "y" / "tokenizer"
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()} - {"model.safetensors"}
    before = text_fingerprint(folder)
    os.chdir(tmp_path / "elsewhere")
    shutil.rmtree(folder)
    assert carried(home / "y")[0] == before
    exported(home / "y")
