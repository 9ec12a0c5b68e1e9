import json

import numpy as np
import pytest
from PIL import Image

from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer
from tests.support.command_lines import load_tool


@pytest.fixture(scope="module")
def main():
    module = load_tool("train_tokenizer")
    return module.main


def test_text(main, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text(
        "a red square\na blue circle\nthis is what a tokenizer gets\n三加四等于七\n" * 20, encoding="utf-8"
    )
    arguments = ["text", "--input", tmp_path / "lines.txt", "--output", tmp_path / "t.model", "--vocab-size", 30]
    assert main([*map(str, arguments), "--symbols", "三", "四"]) == 0
    assert "30 ids" in capsys.readouterr().out
    assert load_text_tokenizer(tmp_path / "t.model").size == 30
    assert main([str(a) if a != 30 else "3000" for a in arguments]) == 2
    assert "error: no tokenizer of 3000 ids" in capsys.readouterr().err


def test_image(main, tmp_path, capsys):
    pixels = np.random.default_rng(0)
    lines = [{"text": "no picture"}, {"image": "broken.png", "caption": "x"}]
    (tmp_path / "broken.png").write_bytes(b"nothing")
    for i in range(8):
        Image.fromarray(pixels.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines += [{"image": f"{i}.png", "caption": "x"}] * 2
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["image", "--input", tmp_path, "--output", tmp_path / "vq", "--resolution", 8, "--widths", 8, 8,
                 "--codebook-size", 8, "--warmup-steps", 2, "--steps", 2, "--batch-size", 4]  # fmt: skip
    assert main(list(map(str, arguments))) == 0
    out, err = capsys.readouterr()
    assert "8 images, codes in use" in out and "reconstruction MSE" in out
    assert "warning:" in err and "broken.png left out" in err
    tokenizer = load_image_tokenizer(tmp_path / "vq")
    assert (tokenizer.codebook_size, tokenizer.downsample) == (8, 2)

    sizes = [*map(str, arguments)]
    sizes.insert(sizes.index("--resolution") + 2, "4")
    assert main(sizes) == 0
    assert load_image_tokenizer(tmp_path / "vq").fingerprint != tokenizer.fingerprint

    arguments[arguments.index(8)] = 9
    assert main(list(map(str, arguments))) == 2
    assert "--resolution is 9; it must be a multiple of 2" in capsys.readouterr().err


def test_missing_input(main, tmp_path, capsys):
    for command, options in (("text", []), ("image", ["--resolution", "8"])):
        arguments = [command, "--input", str(tmp_path / "none"), "--output", str(tmp_path / "out"), *options]
        assert main(arguments) == 2
        assert "none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
