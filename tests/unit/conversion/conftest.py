"""Folders that conversions start from, made once, and what a refused conversion must leave behind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mars_megatron.conversion.convert import export_hf, init_from_hf
from mars_megatron.conversion.visual import extract_visual
from tests.support.language_models import language_model
from tests.support.refusals import SETTINGS


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conversion")


@pytest.fixture(scope="session")
def made_language_model(_made: Path) -> Callable[[str], Path]:
    """A function that gives the folder of a family of `models.FAMILIES`; not to be changed."""

    def folder(family: str) -> Path:
        path = _made / re.sub(r"\W+", "_", family)
        if not path.exists():
            language_model(family).save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def made_start(_made: Path, made_language_model: Callable[[str], Path]) -> Path:
    """A start checkpoint of the Qwen2; not to be changed."""
    with pytest.warns(UserWarning, match="the result has no text tokenizer"):
        init_from_hf(made_language_model("qwen2"), _made / "start", overrides=SETTINGS)
    return _made / "start"


@pytest.fixture(scope="session")
def made_export(_made: Path, made_start: Path) -> Path:
    """That exported, in several shards; not to be changed."""
    return export_hf(made_start, _made / "exported", max_shard_size=40_000)


@pytest.fixture(scope="session")
def made_visual(_made: Path, made_start: Path) -> Path:
    """Its trained part; not to be changed."""
    return extract_visual(made_start, _made / "visual.safetensors")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """A function that copies a folder or file into this test's own."""

    def copy(path: Path) -> Path:
        target = tmp_path / "source" / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            target.parent.mkdir()
            shutil.copyfile(path, target)
        return target

    return copy
