"""A run with its tokenizers in a folder of its own, for tests of what is found where."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from mars_megatron import train
from mars_megatron.checkpoint import resolve
from mars_megatron.checkpoint.tokenizers import locate
from mars_megatron.config import to_yaml
from mars_megatron.tokenizers.tokenizer_files import image_fingerprint, text_fingerprint
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from mars_megatron.tokenizers.train_text import train_text_tokenizer
from tests.support.command_lines import load_tool
from tests.support.metrics import configured
from tests.support.tiny_run import CODEBOOK_SIZE, with_index, write_run

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
