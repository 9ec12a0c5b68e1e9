"""The tokenizers that conversions and runs from a language model take with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mars_megatron.tokenizers.tokenizer_files import image_fingerprint, text_fingerprint
from tests.support.language_models import language_model
from tests.support.run_folder import (
    Train,
    carried,
    exported,
    made,
    place,
    tool,
    trained,
)

__all__ = ["made", "place", "trained"]


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
