"""Tokenizers that are given to a run, and the one that its checkpoint was made with."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from mars_megatron.checkpoint.tokenizers import locate, locate_for_training, write_record
from mars_megatron.config import to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.tokenizers.tokenizer_files import text_fingerprint
from mars_megatron.tokenizers.train_text import train_text_tokenizer


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Two SentencePiece models."""
    made = []
    for name, line in (("one", "red squares and blue circles"), ("two", "something else to learn from")):
        text = tmp_path / f"{name}.txt"
        text.write_text(f"{line}\n" * 20, encoding="utf-8")
        train_text_tokenizer(text, tmp_path / f"{name}.model", vocab_size=24, at_most=True)
        made.append(tmp_path / f"{name}.model")
    return made[0], made[1]


def as_folder(model: Path, folder: Path) -> str:
    folder.mkdir()
    shutil.copyfile(model, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    return str(folder)


def test_the_same_ids_from_other_files_are_the_same_tokenizer(models: tuple[Path, Path], tmp_path: Path) -> None:
    model, other = models
    same, different = as_folder(model, tmp_path / "same"), as_folder(other, tmp_path / "different")
    config = RunConfig()
    config = replace(config, data=replace(config.data, text_tokenizer=str(model)))
    checkpoint = tmp_path / "run" / "step_00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    write_record(checkpoint, {"text_tokenizer": text_fingerprint(model)})

    def given(path: str) -> RunConfig:
        return replace(config, data=replace(config.data, text_tokenizer=path))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        located, found = locate_for_training(given(same), checkpoint, resumed=True)
        assert located.data.text_tokenizer == same and found == {"text_tokenizer": text_fingerprint(same)}
        locate_for_training(given(same), checkpoint, resumed=False)
        assert locate(checkpoint, [f"--data.text_tokenizer={same}"]).config.data.text_tokenizer == same
    with pytest.raises(ValueError, match="another one than"):
        locate_for_training(given(different), checkpoint, resumed=True)
    with pytest.warns(UserWarning, match="another one than"):
        locate(checkpoint, [f"--data.text_tokenizer={different}"])
    model.unlink()  # what it was made with cannot be looked at any more
    with pytest.raises(ValueError, match="another one than"):
        locate_for_training(given(same), checkpoint, resumed=True)
