import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import sentencepiece
import torch
from PIL import Image

from tests.support.command_lines import load_tool
from tests.support.waiting import scaled, wait_until

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
    assert "1 text documents, 2 image documents" in out and "skipped: missing_image 1, other_file 4; see" in out
    assert "3 samples in " in out and " samples/s; 1 left out" in out
    names = sorted(path.name for path in prefix.parent.iterdir())
    assert names == ["train.bin", "train.idx", "train.json", "train.skipped.jsonl"]
    manifest = json.loads((tmp_path / "new" / "train.json").read_text())
    assert manifest["image_tokenizer"]["grid"] == [4, 4] and manifest["documents"] == {"text": 1, "image": 2}


def test_an_image_tokenizer_that_is_not_whole_indexes_nothing(main, made, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(made / "vq" / "diffusion_pytorch_model.safetensors")
    name = "quantize.embedding.weight"
    spoiled = weights[name].clone()
    spoiled[5, 1] = float("nan")  # every picture became code 0, or 5
    vq = tmp_path / "vq"
    vq.mkdir()
    (vq / "config.json").write_bytes((made / "vq" / "config.json").read_bytes())
    for changed, message in (
        ({**weights, name: spoiled}, f"{name} has 1 of 24 values that are no numbers, the first is nan at [5, 1]"),
        ({other: tensor for other, tensor in weights.items() if other != name}, f"lacks {name} (and 0 more)"),
        ({"model.norm.weight": spoiled}, "lacks decoder.conv_in.bias"),
    ):
        save_file(changed, vq / "diffusion_pytorch_model.safetensors")
        code = main("build", "--input", made, "--output", tmp_path / "index" / "train", "--resolution", 8,
                    "--text-tokenizer", made / "text.model", "--image-tokenizer", vq)  # fmt: skip
        err = capsys.readouterr().err
        assert code == 2 and message in err and str(vq / "diffusion_pytorch_model.safetensors") in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vq"]


def test_every_option_arrives(main, made, tmp_path, capsys):
    """In the settings of the manifest, which say what the index was made with."""
    lines = [{"image": "a.png", "dense": "a red square"}, {"image": "b.png", "short": ["a blue square"] * 2}]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = main("build", "--input", tmp_path / "x.jsonl", "--output", tmp_path / "x", "--text-tokenizer",
                made / "text.model", "--image-tokenizer", made / "vq", "--resolution", 8, "--low-resolution", 4,
                "--fit", "stretch", "--captions", "dense=3", "short", "--image-column", "i", "--low-column", "l",
                "--text-column", "t", "--parts-column", "p", "--batch-size", 1, "--workers", 1, "--no-progress",
                "--max-caption-tokens", 20, "--max-text-tokens", 30, "--max-pixels", 999, "--max-bytes", 9999,
                "--min-side", 3, "--allow-outside", "--strict", "--overwrite")  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0 and not err, err
    assert "2 pair documents" in out
    assert json.loads((tmp_path / "x.json").read_text())["settings"] == {
        "resolution": 8, "low_resolution": 4, "fit": "stretch", "captions": [["dense", 3.0], ["short", None]],
        "image_column": "i", "low_column": "l", "text_column": "t", "parts_column": "p", "max_caption_tokens": 20,
        "max_text_tokens": 30, "max_pixels": 999, "max_bytes": 9999, "min_side": 3, "allow_outside": True,
    }  # fmt: skip
    assert main("build", "--input", tmp_path / "x.jsonl", "--output", tmp_path / "x", "--text-tokenizer",
                made / "text.model", "--image-tokenizer", made / "vq", "--resolution", 8) == 2  # fmt: skip
    assert "was made with allow_outside True, not False; give another output, or --overwrite" in capsys.readouterr().err


def test_shards(main, made, tmp_path, capsys):
    inputs = []
    for number in range(3):
        inputs.append(tmp_path / f"{number}.txt")
        inputs[-1].write_text("red is a colour\n" * (number + 1))
    options = ("--input", tmp_path / "*.txt", "--output", tmp_path / "x", "--text-tokenizer", made / "text.model",
               "--workers", 0, "--no-progress")  # fmt: skip
    assert main(*options, "--shard", "1/2") == 0
    out = capsys.readouterr().out
    assert "1 of 3 inputs are in " in out and f"tools/index_data.py merge --output {tmp_path / 'x'}" in out
    assert main(*options) == 0
    out = capsys.readouterr().out
    assert "1 of 3 inputs are finished" in out and "6 text documents" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--input": "nowhere"}, "input nowhere does not exist"),
        ({"--text-tokenizer": "none.model"}, "none.model does not exist"),
        ({"--resolution": 9}, "resolution is 9"),
        ({"--batch-size": 0}, "batch size is 0"),
        ({"--workers": -1}, "workers is -1"),
        ({"--low-resolution": 8}, "low resolution is 8; it must be below the resolution"),
        ({"--low-resolution": 3}, "resolution is 3"),
        ({"--captions": "a=b"}, "'a=b' must be FIELD or FIELD=WEIGHT"),
        ({"--captions": "a=-1"}, "the weight of a is -1.0"),
        ({"--shard": "2/2"}, "shard is 2/2; it must be I/N with 0 <= I < N"),
        ({"--shard": "2"}, "shard is '2'"),
        ({"--captions": "a=1e39"}, "the weight of a is 1e+39"),
        ({"--output": TOOL / "x"}, "index_data.py is a file, not a folder; give another path"),
        ({"--output": "corpus/"}, "output is 'corpus/'; it must be the path of an index without ending"),
    ],
)
def test_errors_are_one_clear_line_and_a_non_zero_code(main, made, tmp_path, capsys, changes, message):
    options = {"--input": made, "--output": tmp_path / "index", "--text-tokenizer": made / "text.model",
               "--image-tokenizer": made / "vq", "--resolution": 8} | changes  # fmt: skip
    assert main(*(part for option in options.items() for part in option)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="for torch without a GPU")
def test_a_device_that_is_not_there(main, made, tmp_path, capsys):
    tokenizers = ("--text-tokenizer", made / "text.model", "--image-tokenizer", made / "vq")
    assert main("--input", made, "--output", tmp_path / "x", *tokenizers, "--resolution", 8, "--device", "cuda") == 2
    assert "device is cuda, but torch sees no GPU; give --device cpu" in capsys.readouterr().err
    assert main("--input", made, "--output", tmp_path / "x", *tokenizers, "--resolution", 8, "--workers", 0) == 0
    assert main("inspect", tmp_path / "x", "--samples", 1, "--output", tmp_path / "o", "--device", "cuda") == 2
    assert "device is cuda" in capsys.readouterr().err


def test_a_gpu_without_memory_and_a_stale_extension(main, made, tmp_path, capsys, monkeypatch):
    from mars_megatron.tokenizers.image import VQImageTokenizer

    command = ("--input", made, "--output", tmp_path / "x", "--text-tokenizer", made / "text.model",
               "--image-tokenizer", made / "vq", "--resolution", 8, "--workers", 0, "--no-progress")  # fmt: skip
    for error, message in (
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            "give a smaller batch size, or the CPU as device (CUDA",
        ),
        (ImportError("mars_megatron._C was built from other sources"), "error: mars_megatron._C was built from other"),
    ):

        def fail(self, *arguments, error=error, **options):
            raise error

        monkeypatch.setattr(VQImageTokenizer, "encode", fail)
        assert main(*command) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
    monkeypatch.setattr(VQImageTokenizer, "encode", lambda *arguments, **options: 1 + "a")
    with pytest.raises(TypeError):  # faults of the program are not dressed up
        main(*command)


def test_an_index_without_documents_has_none_to_show(main, made, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("red\n")
    (tmp_path / "b.txt").write_text("\n")
    options = ("--text-tokenizer", made / "text.model", "--workers", 0, "--no-progress")
    assert main("--input", tmp_path / "*.txt", "--output", tmp_path / "x", *options) == 0
    for what, message in ((("--samples", 3), "has no documents to decode"), (("--document", 0), "has no documents")):
        assert main("inspect", tmp_path / "x.shards" / "000001", *what, "--output", tmp_path / "o") == 2
        assert message in capsys.readouterr().err


def run_tool(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                            start_new_session=True)  # fmt: skip


def test_it_is_quiet(made, tmp_path):
    (tmp_path / "a.txt").write_text("red\n")
    options = ("--text-tokenizer", made / "text.model", "--workers", 0, "--no-progress")
    process = run_tool("--input", tmp_path / "a.txt", "--output", tmp_path / "x", *options)
    _, err = process.communicate()
    assert process.returncode == 0 and not err


STAGES = {
    "importing": lambda tool, out: any("libtorch" in file.path for file in tool.memory_maps()),
    "starting workers": lambda tool, out: tool.children(),
    "writing": lambda tool, out: any(path.stat().st_size for path in out.rglob("*.bin.tmp")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interruption_ends_it_at_any_time(made, tmp_path, stage):
    """Ctrl-C reaches all of its processes; pipes and workers do not hold it up."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("red is a colour\n" * 3_000_000)
    options = ("--text-tokenizer", made / "text.model", "--workers", 2, "--no-progress")
    process = run_tool("build", "--input", tmp_path / "raw" / "a.txt", "--output", tmp_path / "o" / "x", *options)
    tool = psutil.Process(process.pid)
    wait_until(lambda: STAGES[stage](tool, tmp_path / "o"), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=scaled(30))
    assert process.returncode == 130 and err == "interrupted; run it again to resume\n"
    assert not (tmp_path / "o").exists() or not [path for path in (tmp_path / "o").iterdir() if "lock" not in path.name]


def test_help_and_wrong_options():
    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(TOOL), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    done = run("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in ("build", "merge", "inspect", "validate"))
    done = run("build", "--help")
    assert done.returncode == 0 and "captions.jsonl" in done.stdout and "--resolution" in done.stdout
    done = run("--input", "x", "--output", "y", "--text-tokenizer", "z", "--image-tokenizer", "v")
    assert done.returncode == 2 and "--image-tokenizer and --resolution go together" in done.stderr
