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
from tests.support.doc_runner import handle_command

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
    assert done.returncode == 0, (folder / "results.json.log").read_text(encoding="utf-8") + done.stderr
    return {result["place"]: result["error"] for result in json.loads((folder / "results.json").read_text())}


@pytest.mark.parametrize("block", CODE, ids=lambda block: block.place)
def test_commands_work(errors, block):
    assert not errors[block.place], errors[block.place]


@pytest.mark.parametrize(
    "command",
    [
        "python tools/generate.py --checkpoint a --prompts b --output c --num-pictures 4",
        "python tools/evaluate.py facts runs/base --fact facts.json --nothing",
        "python tools/convert_checkpoint.py init-from-hf a b --experts.vision 4",
        "python tools/index_data.py combine --output corpus/train",
        "python -m mars_megatron.train --recipe tiny --data.path corpus/train --modle.num_layers 4",
        "torchrun --nproc-per-node 3 -m mars_megatron.train --recipe tiny --data.path a --parallel.tensor 2",
        "bash examples/quickstrat.sh",
        "DATA=corpus/train bash examples/pretrain_mars.sh",
        ".venv/bin/flake9 .",
        "make all",
    ],
)
def test_wrong_commands_are_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError):
        handle_command(command.split(), run=False)


def test_right_commands_are_not_run(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for command in (
        f"python tools/generate.py --checkpoint a --prompts b --output {tmp_path}/images --num-images 4",
        f"python tools/convert_checkpoint.py init-from-hf a {tmp_path}/b --experts.visual 4",
        f"torchrun --nproc-per-node 2 -m mars_megatron.train --data.path a --checkpoint.dir {tmp_path}/run",
        "DATA_PATH=corpus/train sbatch --nodes 8 examples/pretrain_mars.sh",
    ):
        handle_command(command.split(), run=False)
    assert not list(tmp_path.iterdir())


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
