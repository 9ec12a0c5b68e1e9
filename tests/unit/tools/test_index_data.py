import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image

ROOT = Path(__file__).parents[3]


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "index_data.py"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


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


def test_indexes_a_folder(made, tmp_path):
    prefix = tmp_path / "new" / "train"
    done = run("--input", made, "--output", prefix, "--text-tokenizer", made / "text.model",
               "--image-tokenizer", made / "vq", "--resolution", 8)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 image documents, 1 text documents" in done.stdout and "unreadable_image" in done.stdout
    names = sorted(path.name for path in prefix.parent.iterdir())
    assert names == ["train.bin", "train.idx", "train.json", "train.skipped.jsonl"]
    manifest = json.loads((tmp_path / "new" / "train.json").read_text())
    assert manifest["image_tokenizer"]["grid"] == [4, 4] and manifest["num_documents"] == 3


def test_errors_are_one_clear_line_and_a_non_zero_code(made, tmp_path):
    done = run("--input", tmp_path / "nowhere", "--output", tmp_path / "index", "--text-tokenizer", made / "text.model")
    assert done.returncode == 1 and "nowhere is not a folder" in done.stderr
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_help_and_wrong_options():
    done = run("--help")
    assert done.returncode == 0 and "captions.jsonl" in done.stdout and "--resolution" in done.stdout
    done = run("--input", "x", "--output", "y", "--text-tokenizer", "z", "--image-tokenizer", "v")
    assert done.returncode == 2 and "--image-tokenizer and --resolution go together" in done.stderr
