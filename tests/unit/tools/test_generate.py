"""tools/generate.py: folders of images, gone on with, and made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mars_megatron.config.schema import ImageConfig
from mars_megatron.gallery import cascade
from mars_megatron.gallery.image_folder import ImageFolder, read_manifest
from mars_megatron.sampling import LoadedModel, Sampler, load_for_inference
from tests.support.command_lines import load_tool
from tests.support.tiny_run import TinyRun, save_run, write_run

PROMPTS = (
    '{"prompt": "a red square", "num_images": 3}',
    '{"prompt": "绿色方块", "label": "1", "seed": 9, "guidance": 1.0}',
    '{"prompt": "a red square", "guidance": 1.0, "top_k": 4}',
    '{"prompt": "a blue square", "num_images": 1}',
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def upscaler(run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model for super-resolution from what the other draws."""
    folder = tmp_path_factory.mktemp("upscaler") / "run"
    image = ImageConfig(resolution=16, downsample=2, low_resolution=8, next_k=4, order="regions")
    generation = replace(run.config.generation, temperature=2.0)
    save_run(replace(run.config, image=image, generation=generation), folder)
    return str(folder)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("generate")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(PROMPTS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def drawn(tool: ModuleType, run: TinyRun, prompts: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images of four prompts, without an interruption."""
    folder = tmp_path_factory.mktemp("drawn")
    assert tool.main(arguments(run, prompts, folder)) == 0
    return folder


def arguments(run: TinyRun, prompts: str, folder: Path, *more: str) -> list[str]:
    common = ["--num-images", "2", "--batch-size", "2", "--temperature", "2", "--save-codes"]
    return ["--checkpoint", run.checkpoint, "--prompts", prompts, "--output", str(folder), *common, *more]


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())}


def check_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, image in wanted.items():
        assert np.array_equal(found[name], image), name


def test_images_are_those_of_the_sampler(drawn: Path, run: TinyRun) -> None:
    lines = {line["file"]: line for line in read_manifest(drawn / "manifest.jsonl")}
    assert len(lines) == 8 and all(line["scores"] == [] for line in lines.values())
    found = pixels(drawn)
    assert list(found) == sorted(Path(file).name for file in lines)
    assert not np.array_equal(found["0000_00.png"], found["0000_01.png"])
    sampler = Sampler(load_for_inference(run.checkpoint, overrides=["--generation.temperature=2"]))
    for file, line in lines.items():
        settings = replace(sampler.loaded.config.generation, **line["settings"])
        codes = sampler.sample_each([line["prompt"]], [line["number"]], seeds=[line["seed"]], settings=settings)
        assert np.array_equal(sampler.decode(codes)[0].numpy(), found[Path(file).name])
        with np.load(drawn / "codes" / Path(file).with_suffix(".npz").name) as saved:
            assert np.array_equal(saved["codes"], codes[0].numpy())
    green = lines["images/0001_00.png"]
    assert (green["seed"], green["label"], green["settings"]["guidance"]) == (9, "1", 1.0)
    assert green["model"]["step"] == 1 and green["super_resolution"] is None
    with Image.open(drawn / "sheet.png") as sheet:
        assert sheet.height > 4 * 64


def test_prompt_alone_gives_the_images_of_the_file(
    tool: ModuleType, drawn: Path, run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--checkpoint", run.checkpoint, "--prompt", "a blue square", "--num-images", "1", "--temperature", "2"]
    sheet = tmp_path / "picture.png"
    assert tool.main([*line, "--output", str(tmp_path / "out"), "--sheet", str(sheet)]) == 0
    assert "1 images of 1 prompts, 1 of them new" in capsys.readouterr().out
    assert np.array_equal(pixels(tmp_path / "out")["0000_00.png"], pixels(drawn)["0003_00.png"])
    assert sheet.is_file() and not (tmp_path / "out" / "sheet.png").exists()


def test_goes_on_after_an_interruption(
    tool: ModuleType,
    drawn: Path,
    run: TinyRun,
    prompts: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add, calls = ImageFolder.add, []

    def interrupted(folder: ImageFolder, lines: list[dict[str, Any]]) -> None:
        calls.append(lines)
        if len(calls) == 3:  # the images are written, the manifest half
            with (folder.path / "manifest.jsonl").open("ab") as file:
                file.write(json.dumps(lines[0])[:50].encode() + "红".encode()[:2])
            raise KeyboardInterrupt
        add(folder, lines)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "add", interrupted)
        assert tool.main(arguments(run, prompts, tmp_path)) == 130
    there = [line["file"] for line in read_manifest(tmp_path / "manifest.jsonl")]
    assert 0 < len(there) < 8
    times = {file: (tmp_path / file).stat().st_mtime_ns for file in there}
    capsys.readouterr()
    assert tool.main(arguments(run, prompts, tmp_path)) == 0
    assert f"8 images of 4 prompts, {8 - len(there)} of them new" in capsys.readouterr().out
    assert times == {file: (tmp_path / file).stat().st_mtime_ns for file in there}
    check_equal(pixels(tmp_path), pixels(drawn))
    assert len(read_manifest(tmp_path / "manifest.jsonl")) == 8

    (tmp_path / "images" / "0000_01.png").unlink()
    (tmp_path / "codes" / "0003_00.npz").unlink()
    assert tool.main(arguments(run, prompts, tmp_path)) == 0
    assert "2 of them new" in capsys.readouterr().out
    check_equal(pixels(tmp_path), pixels(drawn))
    assert (tmp_path / "codes" / "0003_00.npz").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--guidance", "7"], "of other settings (settings.guidance was 3.0, is 7.0)"),
        (["--seed", "8"], "of other settings (seed was 5, is 8)"),
        (["--best-of", "2"], "candidates was [0], is [0, 1]"),
        (["--prompts", "other"], "of other settings (prompt was"),
        (["--prompts", "fewer"], "which is not asked for; accepted: the images from before"),
        (["--checkpoint", "another"], "model.fingerprint was"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    tool: ModuleType,
    drawn: Path,
    run: TinyRun,
    prompts: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    if change[0] == "--prompts":
        lines = ['{"prompt": "red", "num_images": 3}', *PROMPTS[1:]] if change[1] == "other" else PROMPTS[:2]
        change = ["--prompts", str(tmp_path / "prompts.jsonl")]
        Path(change[1]).write_text("\n".join(lines), encoding="utf-8")
    elif change[0] == "--checkpoint":
        change = ["--checkpoint", str(tmp_path / "run")]
        save_run(replace(run.config, training=replace(run.config.training, seed=3)), tmp_path / "run")
    before = (drawn / "manifest.jsonl").read_bytes()
    assert tool.main(arguments(run, prompts, drawn, *change)) == 2
    assert message in capsys.readouterr().err
    assert (drawn / "manifest.jsonl").read_bytes() == before


def test_again_is_bitwise_the_same(
    tool: ModuleType, drawn: Path, run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = str(drawn / "manifest.jsonl")
    assert tool.main(["--again", manifest, "--output", str(tmp_path / "all")]) == 0
    check_equal(pixels(tmp_path / "all"), pixels(drawn))
    assert tool.main(["--again", manifest, "--only", "images/0000_02.png", "--output", str(tmp_path / "one")]) == 0
    check_equal(pixels(tmp_path / "one"), {"0000_02.png": pixels(drawn)["0000_02.png"]})
    moved = shutil.copytree(run.checkpoint, tmp_path / "moved")
    assert tool.main(["--again", manifest, "--checkpoint", str(moved), "--output", str(tmp_path / "three")]) == 0
    capsys.readouterr()

    other = tmp_path / "run"
    save_run(replace(run.config, training=replace(run.config.training, seed=3)), other)
    assert tool.main(["--again", manifest, "--checkpoint", str(other)]) == 2
    assert "was made by another model (model.fingerprint was" in capsys.readouterr().err
    assert tool.main(["--again", manifest, "--only", "images/0009_00.png"]) == 2
    assert "has no image images/0009_00.png; accepted: images/0000_00.png" in capsys.readouterr().err
    lines = read_manifest(manifest)
    lines[0]["number"], lines[0]["candidates"] = 40, [40]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tool.main(["--again", str(tmp_path / "manifest.jsonl"), "--output", str(tmp_path / "four")]) == 1
    assert f"1 of 8 images came out otherwise than {tmp_path}" in capsys.readouterr().out
    assert len(pixels(tmp_path / "four")) == 7


def test_a_run_that_goes_on_meanwhile(
    tool: ModuleType, run: TinyRun, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(run.checkpoint, tmp_path / "run")

    def load_slowly(*values: Any, **named: Any) -> LoadedModel:
        loaded = load_for_inference(*values, **named)
        shutil.copytree(copy / "step_00000001", copy / "step_00000002")
        (copy / "latest").write_text("step_00000002\n")
        return loaded

    monkeypatch.setattr(cascade, "load_for_inference", load_slowly)
    assert tool.main(arguments(run, prompts, tmp_path / "out", "--checkpoint", str(copy))) == 0
    model = read_manifest(tmp_path / "out" / "manifest.jsonl")[0]["model"]
    assert (model["step"], Path(model["checkpoint"]).name) == (1, "step_00000001")


def test_best_of_keeps_the_candidate_with_the_best_caption(
    tool: ModuleType, run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--checkpoint", run.checkpoint, "--prompt", "a red square", "--num-images", "3", "--temperature", "2"]
    assert tool.main([*line, "--best-of", "4", "--output", str(tmp_path / "best")]) == 0
    assert tool.main([*line, "--num-images", "12", "--save-codes", "--output", str(tmp_path / "all")]) == 0
    every, best = pixels(tmp_path / "all"), read_manifest(tmp_path / "best" / "manifest.jsonl")
    sampler = Sampler(load_for_inference(run.checkpoint))
    for image, found in enumerate(best):
        assert found["candidates"] == list(range(image * 4, image * 4 + 4))
        codes = [
            np.load(tmp_path / "all" / "codes" / f"0000_{number:02d}.npz")["codes"] for number in found["candidates"]
        ]
        scores = sampler.caption_scores(["a red square"] * 4, torch.from_numpy(np.stack(codes)), 4)
        assert found["scores"] == pytest.approx(scores.tolist(), abs=1e-5)
        assert found["number"] == image * 4 + int(scores.argmax())
        kept = pixels(tmp_path / "best")[Path(found["file"]).name]
        assert np.array_equal(kept, every[f"0000_{found['number']:02d}.png"])
    assert len({found["number"] % 4 for found in best}) > 1
    empty = ["--checkpoint", run.checkpoint, "--prompt", "", "--best-of", "2", "--output", str(tmp_path / "empty")]
    assert tool.main(empty) == 2
    assert "error: the prompt is '', without a token; accepted with best of 2" in capsys.readouterr().err
    manifest = str(tmp_path / "best" / "manifest.jsonl")
    assert tool.main(["--again", manifest, "--output", str(tmp_path / "again")]) == 0
    check_equal(pixels(tmp_path / "again"), pixels(tmp_path / "best"))


def test_cascade(tool: ModuleType, run: TinyRun, upscaler: str, prompts: str, drawn: Path, tmp_path: Path) -> None:
    high = ["--resolution", "high", "--super-resolution", upscaler, "--keep-low", "--high-top-k", "5"]
    assert tool.main(arguments(run, prompts, tmp_path, *high)) == 0
    found, lines = pixels(tmp_path), read_manifest(tmp_path / "manifest.jsonl")
    assert {image.shape for image in found.values()} == {(16, 16, 3)} and lines[0]["resolution"] == 16
    low = {path.name: np.asarray(Image.open(path)) for path in sorted((tmp_path / "low").iterdir())}
    check_equal(low, pixels(drawn))
    settings = lines[0]["super_resolution"]["settings"]
    assert (settings["top_k"], settings["temperature"]) == (5, 2.0)
    sampler = Sampler(load_for_inference(upscaler, overrides=["--generation.top_k=5"]))
    for line in lines[:3]:
        with np.load(tmp_path / "codes" / Path(line["file"]).with_suffix(".npz").name) as saved:
            start, want = torch.from_numpy(saved["low_codes"])[None], saved["codes"]
        codes = sampler.upscale_each([line["prompt"]], start, [line["number"]], seeds=[line["seed"]])
        assert np.array_equal(codes[0].numpy(), want)
        assert np.array_equal(sampler.decode(codes)[0].numpy(), found[Path(line["file"]).name])
    again = ["--again", str(tmp_path / "manifest.jsonl"), "--output", str(tmp_path / "again")]
    assert tool.main(again) == 0
    check_equal(pixels(tmp_path / "again"), found)


def test_one_model_does_both(tool: ModuleType, upscaler: str, tmp_path: Path) -> None:
    line = ["--checkpoint", upscaler, "--prompt", "a red square", "--num-images", "2", "--output", str(tmp_path)]
    assert tool.main([*line, "--resolution", "high", "--temperature", "3", "--keep-low"]) == 0
    (found, _) = read_manifest(tmp_path / "manifest.jsonl")
    assert found["settings"]["temperature"] == 3.0 and found["super_resolution"]["settings"]["temperature"] == 2.0
    assert found["super_resolution"]["fingerprint"] == found["model"]["fingerprint"]
    assert Image.open(tmp_path / found["file"]).size == (16, 16)
    assert Image.open(tmp_path / "low" / Path(found["file"]).name).size == (8, 8)
    again = ["--again", str(tmp_path / "manifest.jsonl"), "--output", str(tmp_path / "again")]
    assert tool.main(again) == 0
    check_equal(pixels(tmp_path / "again"), pixels(tmp_path))


def test_models_that_do_not_fit(
    tool: ModuleType, run: TinyRun, upscaler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--prompt", "a", "--output", str(tmp_path / "out"), "--resolution", "high"]
    for models, message in (
        ([run.checkpoint], f"{run.checkpoint} has not learned super-resolution (image.low_resolution is 0)"),
        ([run.checkpoint, run.checkpoint], "has not learned super-resolution (image.low_resolution is 0)"),
        ([upscaler, upscaler], "samples at image.resolution 16, but"),
    ):
        names = [word for pair in zip(("--checkpoint", "--super-resolution"), models, strict=False) for word in pair]
        assert tool.main([*line, *names]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    other = write_run(tmp_path / "other", seed=99)
    image = ImageConfig(resolution=16, downsample=2, low_resolution=8)
    save_run(replace(other.config, image=image), tmp_path / "high")
    names = ["--checkpoint", run.checkpoint, "--super-resolution", str(tmp_path / "high")]
    assert tool.main([*line, *names]) == 2
    assert "which differs; accepted: the same, because one model goes on from the codes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--prompt", "a", "--output", "o"], "--checkpoint is missing"),
        (["--prompt", "a", "--checkpoint", "c"], "--output is missing"),
        (["--prompt", "a", "--again", "m"], "not allowed with argument"),
        (["--again", "m", "--guidance", "2", "--best-of", "2"], "without effect with --again"),
        (["--again", "m", "--seed", "0"], "--seed"),
        (["--again", "m", "--num-images", "0"], "without effect with --again"),
        (["--prompt", "a", "--checkpoint", "c", "--output", "o", "--only", "f"], "--only without --again: --only"),
        (
            ["--prompt", "a", "--checkpoint", "c", "--output", "o", "--keep-low"],
            "without --resolution high: --keep-low",
        ),
        (["--prompt", "a", "--checkpoint", "c", "--output", "o", "--high-top-p", "1"], "--high-top-p"),
    ],
)
def test_options_without_effect_are_refused(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], line: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        tool.parse_arguments(line)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--guidance", "much"], "generation.guidance"),
        (["--min-p", "2"], "generation.min_p is 2.0; accepted: from 0 to 1"),
        (["--num-images", "0"], "the number of images is 0; accepted: 1 or more"),
        (["--best-of", "0"], "best of is 0"),
        (["--prompts", "/none"], "/none is not a file"),
    ],
)
def test_wrong_values(
    tool: ModuleType,
    run: TinyRun,
    prompts: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    assert tool.main(arguments(run, prompts, tmp_path, *change)) == 2
    assert message in capsys.readouterr().err
