"""A value that is no number is refused by file and tensor, from whatever file and format it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mars_megatron.checkpoint import folders, read_config
from mars_megatron.checkpoint.streaming import CheckpointTensors, write_checkpoint
from mars_megatron.checkpoint.tensors import LazyTensor
from mars_megatron.conversion.checkpoints import visual_header
from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf
from mars_megatron.conversion.verify import compare, open_both
from mars_megatron.conversion.visual import extract_visual, merge
from mars_megatron.sampling import load_for_inference
from tests.support.command_lines import load_tool
from tests.support.language_models import OriginalQwen, language_model
from tests.support.refusals import SETTINGS, refused

pytestmark = pytest.mark.filterwarnings("ignore:the result has no text tokenizer")

Made = Callable[[str], Path]
Copied = Callable[[Path], Path]
NAN, INF = float("nan"), float("inf")
KEY = "decoder.layers.2.mlp.visual.linear_fc2.weight"
PART = "model.layers.2.mlp.visual.down_proj.weight"


def spoil(file: Path, name: str, value: float, dtype: torch.dtype | None = None) -> None:
    """The last value of a tensor becomes another, in a file of a type."""
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
    header = visual_header(file) if name == PART and not (file.parent / "config.json").is_file() else {"format": "pt"}
    tensors = {other: tensor.to(dtype or tensor.dtype) for other, tensor in tensors.items()}
    tensors[name].view(-1)[-1] = value
    if file.suffix == ".safetensors":
        save_file(tensors, file, header)
    else:
        torch.save(tensors, file)


def holder(folder: Path, name: str) -> Path:
    """The file that has a tensor."""
    return next(file for file in sorted(folder.glob("*.safetensors")) if name in load_file(file))


def spoiled(source: Path, target: Path, values: dict[str, float]) -> Path:
    """The same run with other last values of some tensors, as a run that diverged writes it."""
    folder = folders.resolve(source)
    stored = CheckpointTensors(folder)

    def load(name: str) -> Tensor:
        tensor = stored.read(name).clone()
        if name in values:
            tensor.view(-1)[-1] = values[name]
        return tensor

    lazy = {name: LazyTensor(info, lambda name=name: load(name)) for name, info in stored.tensors.items()}
    write_checkpoint(target, read_config(folder), 0, lazy)
    return target


@pytest.mark.parametrize(
    ("family", "name", "value", "dtype"),
    [
        ("qwen2", "model.embed_tokens.weight", NAN, torch.float32),
        ("qwen2", "model.layers.3.self_attn.k_proj.bias", INF, torch.bfloat16),
        ("qwen2, tied", "model.norm.weight", -INF, torch.float16),
        ("qwen2, tied", "model.embed_tokens.weight", INF, torch.float32),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", NAN, torch.float64),
        ("llama", "lm_head.weight", NAN, torch.float16),
        ("llama", "model.layers.1.mlp.down_proj.weight", -INF, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("form", ["one file", "several", "a pickle"])
def test_language_models(tmp_path: Path, family: str, name: str, value: float, dtype: torch.dtype, form: str) -> None:
    source = tmp_path / "source"
    language_model(family).save_pretrained(source, max_shard_size="20KB" if form == "several" else "5GB")
    file = holder(source, name)
    if form == "a pickle":
        tensors = load_file(file)
        file.unlink()
        file = source / "pytorch_model.bin"
        torch.save(tensors, file)
    spoil(file, name, value, dtype)
    with refused(tmp_path / "start", file, f"{name} has 1 of", f"the first is {value} at ["):
        init_from_hf(source, tmp_path / "start", overrides=SETTINGS)


def test_a_fused_tensor_of_the_original_qwen(tmp_path: Path) -> None:
    """Only the last of the three parts has the value, and the error names the tensor of the file."""
    model, name = OriginalQwen(), "transformer.h.1.attn.c_attn.weight"
    model.weights[name][-1, -1] = NAN
    model.save(tmp_path / "source")
    with refused(tmp_path / "start", tmp_path / "source" / "model.safetensors", f"{name} has 1 of", "[95, 31]"):
        init_from_hf(tmp_path / "source", tmp_path / "start", overrides=SETTINGS)


def test_exported_folders(made_export: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_export)
    file = holder(source, PART)
    spoil(file, PART, INF)
    with refused(tmp_path / "back", file, f"{PART} has 1 of", "inf at"):
        import_hf(source, tmp_path / "back")
    with refused(tmp_path / "visual.safetensors", file, PART):
        extract_visual(source, tmp_path / "visual.safetensors")


def test_files_of_extract_visual(made_language_model: Made, made_visual: Path, copied: Copied, tmp_path: Path) -> None:
    visual = copied(made_visual)
    spoil(visual, PART, NAN)
    with refused(tmp_path / "merged", visual, f"{PART} has 1 of", "nan at"):
        merge(made_language_model("qwen2"), visual, tmp_path / "merged")


def test_the_base_of_a_merge(made_language_model: Made, made_visual: Path, copied: Copied, tmp_path: Path) -> None:
    base = copied(made_language_model("qwen2"))
    spoil(base / "model.safetensors", "model.norm.weight", NAN)
    with refused(tmp_path / "merged", base / "model.safetensors", "model.norm.weight has 1 of 32"):
        merge(base, made_visual, tmp_path / "merged")


def test_checkpoints(made_start: Path, tmp_path: Path) -> None:
    source = spoiled(made_start, tmp_path / "source", {KEY: -INF})
    for target, call in (
        (tmp_path / "out", lambda: export_hf(source, tmp_path / "out")),
        (tmp_path / "half", lambda: export_hf(source, tmp_path / "half", dtype="fp16")),
        (tmp_path / "visual.safetensors", lambda: extract_visual(source, tmp_path / "visual.safetensors")),
    ):
        with refused(target, source / "step_00000000", f"{KEY} has 1 of", "-inf at ["):
            call()


def test_a_checkpoint_in_several_files(made_start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As several ranks write it: the tensor is put together before it is looked at."""
    source = spoiled(made_start, tmp_path / "source", {KEY: NAN})
    opened = CheckpointTensors(source / "step_00000000")
    (chunk,) = opened._stored[KEY].chunks
    monkeypatch.setattr(opened._stored[KEY], "chunks", [chunk, chunk])
    with pytest.raises(ValueError, match=f"{KEY} has 1 of"):
        opened.read(KEY)


def test_sampling_and_training_load_no_such_model(made_start: Path, tmp_path: Path) -> None:
    """Both by `load_model`, of whatever layout."""
    source = spoiled(made_start, tmp_path / "source", {KEY: NAN})
    with pytest.raises(ValueError, match=f"step_00000000, as this rank holds it: {KEY} has 1 of"):
        load_for_inference(source)
    load_for_inference(made_start)


def test_verify_says_the_side(made_start: Path, made_export: Path, tmp_path: Path, capsys: Any) -> None:
    tool = load_tool("convert_checkpoint")
    broken = spoiled(made_start, tmp_path / "broken", {KEY: NAN})
    other = spoiled(made_start, tmp_path / "other", {KEY: INF})
    for first, second, sides in (
        (broken, made_export, ["first"]),
        (made_export, broken, ["second"]),
        (broken, broken, ["first", "second"]),
        (other, other, ["first", "second"]),
    ):
        assert tool.main(["verify", str(first), str(second), "--tolerance", "1e30"]) == 1
        out = capsys.readouterr().out
        assert [f"numbers  {PART} of the {side}: " in out for side in ("first", "second")] == [
            side in sides for side in ("first", "second")
        ]
        assert "step_00000000: " in out and KEY in out and out.endswith("max abs difference nan\nDIFFERENT\n")


def test_verify_goes_on_behind_it(made_start: Path, tmp_path: Path) -> None:
    broken = spoiled(made_start, tmp_path / "broken", {KEY: NAN, "final_norm.shared.weight": 7.0})
    result = compare(*open_both(made_start, broken))
    kinds = [problem.split()[0] for problem in result.problems]
    assert sorted(kinds) == ["numbers", "values"] and result.num_equal == result.num_compared - 2


@pytest.mark.parametrize(
    ("dtype", "value", "messages"),
    [
        ("fp16", 65520.0, ("values up to 65520, too large for fp16", "65504", "bf16 or fp32")),
        ("fp16", -1e30, ("values up to 1e+30", "fp16")),
        ("bf16", 3.4e38, ("values up to 3.4e+38, too large for bf16", "3.38953e+38", "fp32")),
    ],
)
def test_values_too_large_for_a_type(
    made_start: Path, tmp_path: Path, dtype: str, value: float, messages: tuple[str, ...]
) -> None:
    source = spoiled(made_start, tmp_path / "source", {KEY: value})
    with refused(tmp_path / "out", PART, *messages):
        export_hf(source, tmp_path / "out", dtype=dtype)
    fits = spoiled(made_start, tmp_path / "fits", {KEY: {"fp16": 65504.0, "bf16": 3.38e38}[dtype]})
    exported = export_hf(fits, tmp_path / "exported", dtype=dtype)
    assert load_file(holder(exported, PART))[PART].isfinite().all()


def test_a_source_in_fp64_too_large_for_fp32(tmp_path: Path) -> None:
    source = tmp_path / "source"
    language_model("llama").save_pretrained(source)
    spoil(source / "model.safetensors", "lm_head.weight", 1e39, torch.float64)
    with refused(tmp_path / "start", "lm_head.text.weight has values up to 1e+39, too large for fp32"):
        init_from_hf(source, tmp_path / "start", overrides=SETTINGS)


def test_each_tensor_of_a_folder_is_looked_at_once(
    made_language_model: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and visual half are made of the same tensors."""
    from mars_megatron.conversion import hugging_face

    looked: list[str] = []
    check = hugging_face.check_numbers
    monkeypatch.setattr(hugging_face, "check_numbers", lambda *of: (looked.append(of[1]), check(*of)))
    init_from_hf(made_language_model("qwen2, tied"), tmp_path / "start", overrides=SETTINGS)
    assert len(looked) == len(set(looked)) == len(load_file(made_language_model("qwen2, tied") / "model.safetensors"))
