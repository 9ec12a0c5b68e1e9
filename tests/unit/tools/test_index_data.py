import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image

from tests.command_lines import load_tool

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "index_data.py"


@pytest.fixture(scope="module")
def main():
    module = load_tool("index_data")
    return lambda *arguments: module.main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of two pictures and a text, and both tokenizers."""
    from diffusers import VQModel

    folder = tmp_path_factory.mktemp("made")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10), name == "a.png" and "red" or "blue").save(folder / name)
    samples = [
        {"image": "a.png", "captions": ["a red square", "红色"]},
        {"image": "b.png", "caption": "a blue square"},
        {"text": "red is a colour"},
        {"image": "lost.png", "caption": "lost"},
    ]
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red square", "a blue square", "red is a colour", "红色"] * 20),
        model_prefix=str(folder / "text"), vocab_size=20, minloglevel=2,
    )  # fmt: skip
    torch.manual_seed(0)
    VQModel(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, num_vq_embeddings=8,
            mid_block_add_attention=False).save_pretrained(folder / "vq")  # fmt: skip
    return folder


def test_indexes_a_folder(main, made, tmp_path, capsys):
    prefix = tmp_path / "new" / "train"
    code = main("--input", made, "--output", prefix, "--text-tokenizer", made / "text.model",
                "--image-tokenizer", made / "vq", "--resolution", 8)  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "2 image documents, 1 text documents" in out and "unreadable_image" in out
    names = sorted(path.name for path in prefix.parent.iterdir())
    assert names == ["train.bin", "train.idx", "train.json", "train.skipped.jsonl"]
    manifest = json.loads((tmp_path / "new" / "train.json").read_text())
    assert manifest["image_tokenizer"]["grid"] == [4, 4] and manifest["num_documents"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--input": "nowhere"}, "nowhere is not a folder"),
        ({"--text-tokenizer": "none.model"}, "none.model does not exist"),
        ({"--resolution": 9}, "resolution is 9"),
        ({"--batch-size": 0}, "batch size is 0"),
    ],
)
def test_errors_are_one_clear_line_and_a_non_zero_code(main, made, tmp_path, capsys, changes, message):
    options = {"--input": made, "--output": tmp_path / "index", "--text-tokenizer": made / "text.model",
               "--image-tokenizer": made / "vq", "--resolution": 8} | changes  # fmt: skip
    assert main(*(part for option in options.items() for part in option)) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_and_wrong_options():
    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(TOOL), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    done = run("--help")
    assert done.returncode == 0 and "captions.jsonl" in done.stdout and "--resolution" in done.stdout
    done = run("--input", "x", "--output", "y", "--text-tokenizer", "z", "--image-tokenizer", "v")
    assert done.returncode == 2 and "--image-tokenizer and --resolution go together" in done.stderr
