"""The command line of tools/convert_checkpoint.py, on a whole tiny run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mars_megatron.config import from_yaml
from tests.support.command_lines import load_tool
from tests.support.language_models import language_model
from tests.support.tiny_run import write_run

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("convert_checkpoint")


@pytest.fixture(scope="module")
def main(tool: Any) -> Callable[..., int]:
    return lambda *arguments: tool.main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its tokenizers."""
    return Path(write_run(tmp_path_factory.mktemp("tiny")).checkpoint)


@pytest.fixture(scope="module")
def exported(main: Callable[..., int], run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "mars"
    assert main("export-hf", run, folder, "--no-progress") == 0
    return folder


def test_there_and_back(main: Callable[..., int], run: Path, exported: Path, tmp_path: Path, capsys: Any) -> None:
    assert main("import-hf", exported, tmp_path / "back") == 0
    for other in (exported, tmp_path / "back"):
        assert main("verify", run, other) == 0
    assert "27 of 27 tensors equal, 0 problems, max abs difference 0\nsame" in capsys.readouterr().out
    config = from_yaml(tmp_path / "back" / "step_00000001" / "config.yaml")
    for path in (config.data.text_tokenizer, config.data.image_tokenizer):
        assert Path(path).is_dir() and Path(path).parent == tmp_path / "back"


def test_a_changed_value_is_found(main: Callable[..., int], exported: Path, tmp_path: Path, capsys: Any) -> None:
    tensors = load_file(exported / "model.safetensors")
    tensors["lm_head.visual.weight"][3, 5] += 1
    for path in exported.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).symlink_to(path)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert main("verify", exported, tmp_path) == 1
    out = capsys.readouterr().out
    assert "values   lm_head.visual.weight: max abs difference 1\n" in out and out.endswith("DIFFERENT\n")


def test_shards_and_types(main: Callable[..., int], run: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert main("export-hf", run, small, "--dtype", "bf16", "--max-shard-size", "2KB") == 0
    assert len(list(small.glob("model-*-of-*.safetensors"))) > 3
    assert main("verify", run, small) == 1
    assert main("verify", run, small, "--ignore-dtype", "--tolerance", 0.02) == 0


def test_the_trained_half(main: Callable[..., int], run: Path, tmp_path: Path) -> None:
    file = tmp_path / "visual.safetensors"
    assert main("extract-visual", run, file) == 0
    assert main("verify", run, file) == 0
    assert all("visual" in name.split(".") for name in load_file(file))
    assert main("merge", run, file, tmp_path / "merged") == 0
    assert main("verify", run, tmp_path / "merged") == 0


def test_inspect(main: Callable[..., int], run: Path, exported: Path, capsys: Any) -> None:
    assert main("inspect", run) == 0
    out = capsys.readouterr().out
    assert "checkpoint, step 1, float32" in out and "with optimiser state" in out and "configured  tensor 1" in out
    assert main("inspect", exported, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    by_name = {name: value.numel() for name, value in load_file(exported / "model.safetensors").items()}
    visual = sum(number for name, number in by_name.items() if "visual" in name.split("."))
    assert found["num_parameters"] == sum(by_name.values())
    assert found["parameters"]["visual"] == {"trained": visual, "frozen": 0}
    assert found["parameters"]["text"]["trained"] == found["parameters"]["shared"]["trained"] == 0


def test_a_language_model(main: Callable[..., int], run: Path, tmp_path: Path, capsys: Any) -> None:
    language_model("qwen2").save_pretrained(tmp_path / "model")
    start = tmp_path / "start"
    vq = from_yaml(run / "step_00000001" / "config.yaml").data.image_tokenizer
    with pytest.warns(UserWarning, match="the result has no text tokenizer"):
        assert main("init-from-hf", tmp_path / "model", start, "--image-tokenizer", vq, "--experts.visual", 2) == 0
    assert main("verify", tmp_path / "model", start) == 0
    # What a run from it needs, for --config.
    settings = from_yaml(start / "model.yaml")
    saved = from_yaml(start / "step_00000000" / "config.yaml")
    assert (settings.model, settings.vocabulary, settings.experts) == (saved.model, saved.vocabulary, saved.experts)
    assert saved.vocabulary.codebook_size == 16 and saved.image.downsample == 2 and saved.experts.visual == 2
    assert settings.data.image_tokenizer == str(start / "image_tokenizer")
    assert main("inspect", tmp_path / "model") == 0
    assert "language_model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.gguf": b"GGUF"}, "G(dequantize=True)"),
        (
            {"adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-8B"}'},
            "Qwen/Qwen3-8B",
        ),
        ({"config.json": b'{"model_type": "qwen2", "quantization_config": {"quant_method": "awq"}}'}, "awq"),
        (
            {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": b"version https://git-lfs.x"},
            "git lfs pull",
        ),
        ({"model_index.json": b"{}", "vqvae/config.json": b'{"_class_name": "VQModel"}'}, "vqvae"),
    ],
)
def test_what_is_no_plain_folder(
    main: Callable[..., int], run: Path, tmp_path: Path, capsys: Any, files: dict[str, bytes], message: str
) -> None:
    """Whatever is asked of it."""
    folder = tmp_path / "model"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for arguments in (
        ("init-from-hf", folder, tmp_path / "out"),
        ("import-hf", folder, tmp_path / "out"),
        ("verify", run, folder),
        ("inspect", folder),
    ):
        assert main(*arguments) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("error: ") and str(folder) in err and message in err, err
    assert main("merge", run, folder, tmp_path / "out") == 2
    assert f"{folder} is a folder; accepted: the .safetensors file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_image_tokenizer_that_is_not_whole(
    main: Callable[..., int], run: Path, exported: Path, tmp_path: Path, capsys: Any
) -> None:
    """Refused before the work by whatever would make a copy of it."""
    language_model("qwen2").save_pretrained(tmp_path / "model")
    folder = tmp_path / "exported"
    shutil.copytree(exported, folder)
    vq = folder / "image_tokenizer"
    file, name = vq / "diffusion_pytorch_model.safetensors", "quantize.embedding.weight"
    tensors = load_file(file)
    spoiled = tensors[name].clone()
    spoiled[3] = float("nan")
    for changed, message in (
        ({**tensors, name: spoiled}, f"{name} has 4 of 64 values that are no numbers"),
        ({other: tensor for other, tensor in tensors.items() if other != name}, f"lacks {name}"),
    ):
        save_file(changed, file)
        for arguments in (
            ("init-from-hf", tmp_path / "model", tmp_path / "out", "--image-tokenizer", vq),
            ("export-hf", run, tmp_path / "out", "--image-tokenizer", vq),
            ("import-hf", folder, tmp_path / "out"),
        ):
            assert main(*arguments) == 2, arguments
            err = capsys.readouterr().err
            assert f"error: image tokenizer {file}" in err and message in err, err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "model"]


def test_logits_in_a_process_of_its_own(run: Path, exported: Path) -> None:
    command = [sys.executable, "-W", "ignore", TOOL, "verify", run, exported, "--logits", "--no-progress"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("logits, ") == 3 and done.stdout.endswith("same\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "/nowhere"), "/nowhere does not exist"),
        (("export-hf", "{exported}", "{new}"), "is a folder made by export-hf; accepted here: a checkpoint"),
        (("import-hf", "{run}", "{new}"), "accepted here: a folder made by export-hf"),
        (("export-hf", "{run}", "{exported}"), "is not an empty folder"),
        (("extract-visual", "{run}", "{new}"), "does not end in .safetensors"),
        (("init-from-hf", "{run}", "{new}"), "is a run or checkpoint of this project"),
        (("merge", "{run}", "{exported}/model.safetensors", "{new}"), "was not made by extract-visual"),
    ],
)
def test_errors(
    main: Callable[..., int],
    run: Path,
    exported: Path,
    tmp_path: Path,
    capsys: Any,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    given = [argument.format(run=run, exported=exported, new=tmp_path / "new") for argument in arguments]
    assert main(*given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "new").exists()


def test_sizes_and_unknown_options(tool: Any, main: Callable[..., int], run: Path, capsys: Any) -> None:
    assert [tool.size(text) for text in ("5GB", "10", "1.5 MiB")] == [5 * 10**9, 10, 3 * 2**19]
    for wrong in (
        ("export-hf", run, "new", "--max-shard-size", "many"),
        ("verify", run, run, "--experts.visual", 2),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(*wrong)
        assert stopped.value.code == 2
    assert "many" in (error := capsys.readouterr().err) and "unrecognized arguments: --experts.visual 2" in error


def test_a_model_saved_by_transformers(main: Callable[..., int], exported: Path, tmp_path: Path, capsys: Any) -> None:
    """As after fine-tuning: all is there but the training configuration."""
    for path in exported.iterdir():
        if path.name not in ("training_config.yaml", "image_tokenizer"):
            (tmp_path / path.name).symlink_to(path)
    assert main("import-hf", tmp_path, tmp_path / "new") == 2
    assert "training_config.yaml does not exist; copy it from the folder" in capsys.readouterr().err
    (tmp_path / "training_config.yaml").symlink_to(exported / "training_config.yaml")
    assert main("import-hf", tmp_path, tmp_path / "new") == 0
    assert main("verify", exported, tmp_path / "new") == 0
