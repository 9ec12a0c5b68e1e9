"""The commands of README and docs are run as they are written, or, where they need more than a test has, parsed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.doc_blocks import BLOCKS, NEEDS, ROOT

SHELL = [block for block in BLOCKS if block.language == "bash"]
CODE = [*SHELL, *(block for block in BLOCKS if block.language == "python")]
COLOURS = {"red": (200, 20, 20), "green": (20, 160, 40), "blue": (30, 40, 200)}


def write_inputs(folder) -> None:
    """What the pages say that a user has: photos with captions, sentences, and the settings of a language model."""
    photos = folder / "photos"
    photos.mkdir()
    lines = [{"text": "a document without an image"}]
    for number in range(12):
        name = list(COLOURS)[number % 3]
        pixels = np.full((70, 64 + number, 3), COLOURS[name], dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
        lines.append({"image": f"{number}.png", "captions": [f"a {name} square", {"text": "一个方块", "weight": 2}]})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (photos / "captions.jsonl").write_text(text, encoding="utf-8")
    sentences = [f"a {name} square and a document without an image\n一个红色方块\n" for name in COLOURS]
    (folder / "sentences.txt").write_text("".join(sentences), encoding="utf-8")
    (folder / "start").mkdir()
    (folder / "start" / "model.yaml").write_text("model: {num_layers: 32}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What went wrong in each block, by its place: all are handled in one process, in the order of the pages."""
    folder = tmp_path_factory.mktemp("a repository")
    for name in ("tools", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mars_megatron").symlink_to(ROOT / "mars_megatron")
    write_inputs(folder)
    jobs = [
        {
            "place": block.place,
            "language": block.language,
            "text": block.text,
            "commands": block.commands() if block.language == "bash" else [],
            "run": not block.needs,
        }
        for block in CODE
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    command = [sys.executable, "-m", "tests.support.doc_runner", "jobs.json", "results.json"]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {result["place"]: result["error"] for result in json.loads((folder / "results.json").read_text())}


@pytest.mark.parametrize("block", CODE, ids=lambda block: block.place)
def test_commands_work(errors, block):
    assert not errors[block.place], errors[block.place]


def test_most_tools_are_run_and_not_only_parsed():
    run = " ".join(block.text for block in SHELL if not block.needs)
    for name in ("train_tokenizer.py text", "train_tokenizer.py image", "index_data.py build", "generate.py"):
        assert f"tools/{name}" in run
    assert "mars_megatron.train" in run and "export-hf" in run


def test_marks_and_languages_are_known():
    assert {block.needs for block in BLOCKS} <= {"", *NEEDS}
    assert {block.language for block in BLOCKS} <= {"bash", "python", "yaml", "json", "bibtex"}
    assert not [block.place for block in BLOCKS if block.needs and block.language != "bash"]


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("yaml", "json")], ids=lambda block: block.place
)
def test_examples_of_files_can_be_read(block):
    for text in block.text.splitlines() if block.language == "json" else [block.text]:
        assert (json.loads if block.language == "json" else yaml.safe_load)(text)
