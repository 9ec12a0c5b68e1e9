"""What conversions decide beside the tensors: which file counts, whose settings hold, where tokenizers lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mars_megatron.config import from_yaml, to_yaml
from mars_megatron.conversion.checkpoints import inspect, open_checkpoint
from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf
from mars_megatron.conversion.language_model import LanguageModelParts
from mars_megatron.conversion.verify import compare, compare_logits, open_both
from mars_megatron.conversion.visual import extract_visual, merge
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from tests.support.language_models import language_model
from tests.support.refusals import SETTINGS, refused

pytestmark = pytest.mark.filterwarnings("ignore:the result has no text tokenizer")

Made, Copied = Callable[[str], Path], Callable[[Path], Path]


def test_one_file_goes_before_shards_as_in_transformers(made_language_model: Made, copied: Copied) -> None:
    source = copied(made_language_model("qwen2"))
    tensors = load_file(source / "model.safetensors")
    config = open_checkpoint(source).config
    # What a model saved into the folder of a sharded one leaves behind: an index whose shards are gone.
    weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    parts = LanguageModelParts(source, config)
    assert torch.equal(parts.read("model.norm.weight"), tensors["model.norm.weight"])
    save_file({name: value + 1 for name, value in tensors.items()}, source / "model-00001-of-00001.safetensors")
    parts = LanguageModelParts(source, config)
    assert torch.equal(parts.read("model.norm.weight"), tensors["model.norm.weight"])


@pytest.mark.parametrize(
    ("setting", "option"),
    [("--training.precision=bf16", "--dtype"), ("--data.image_tokenizer=there", "--image-tokenizer")],
)
def test_settings_that_options_decide(made_language_model: Made, tmp_path: Path, setting: str, option: str) -> None:
    with refused(tmp_path / "start", setting[2:].split("=")[0], f"the option {option}"):
        init_from_hf(made_language_model("qwen2"), tmp_path / "start", overrides=[*SETTINGS, setting])


def test_shared_experts_start_from_a_language_model_and_are_not_exported(
    made_language_model: Made, tmp_path: Path
) -> None:
    source, start = made_language_model("qwen2"), tmp_path / "start"
    init_from_hf(source, start, overrides=[*SETTINGS, "--model.shared_experts=true", "--freeze.text=false"])
    result = compare(*open_both(source, start))
    assert result.num_compared > 10 and not result.problems
    with refused(tmp_path / "exported", f"{start} has model.shared_experts true", "accepted here: false"):
        export_hf(start, tmp_path / "exported")


def test_text_tokenizer_that_is_not_there(made_language_model: Made, tmp_path: Path) -> None:
    with refused(tmp_path / "start", "text tokenizer there does not exist"):
        settings = [*SETTINGS, "--data.text_tokenizer=there"]
        init_from_hf(made_language_model("qwen2"), tmp_path / "start", overrides=settings)


def test_link_to_an_empty_folder(made_language_model: Made, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    init_from_hf(made_language_model("qwen2"), tmp_path / "link", overrides=SETTINGS)
    assert open_checkpoint(tmp_path / "place").format == "checkpoint"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "place"]


def test_several_types_come_back(made_export: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_export)
    for shard in source.glob("*.safetensors"):
        tensors = {n: value.bfloat16() if "norm" in n else value for n, value in load_file(shard).items()}
        save_file(tensors, shard, {"format": "pt"})
    import_hf(source, tmp_path / "back")
    result = compare(*open_both(source, tmp_path / "back"))
    assert result.num_compared and not result.problems
    assert inspect(open_checkpoint(tmp_path / "back"))["dtypes"] == ["bfloat16", "float32"]


def test_values_too_large_for_fp16(made_export: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_export)
    shard = next(path for path in source.glob("*.safetensors") if "model.norm.weight" in load_file(path))
    tensors = load_file(shard)
    tensors["model.norm.weight"][0] = 7e4
    save_file(tensors, shard, {"format": "pt"})
    import_hf(source, tmp_path / "back")
    with refused(tmp_path / "out", "model.norm.weight has values up to 70000, too large for fp16", "65504", "bf16"):
        export_hf(tmp_path / "back", tmp_path / "out", dtype="fp16")


def test_settings_are_compared_too(made_start: Path, copied: Copied) -> None:
    other = copied(made_start)
    file = other / "step_00000000" / "config.yaml"
    config = from_yaml(file)
    file.write_text(to_yaml(replace(config, model=replace(config.model, rope_base=5000.0, init_std=0.5))))
    result = compare(*open_both(made_start, other))
    assert result.problems == ["setting  model.rope_base: 10000.0 against 5000.0"]


def test_a_language_model_is_compared_by_its_own_settings(made_start: Path, made_language_model: Made) -> None:
    other = made_language_model("llama, scaled, tied")
    problems = compare(*open_both(made_start, other)).problems
    assert "setting  model.qkv_bias: True against False" in problems
    assert not compare(*open_both(made_start, made_language_model("qwen2"))).problems


def test_logits_of_other_vocabularies(made_start: Path, made_language_model: Made, tmp_path: Path) -> None:
    settings = ["--vocabulary.codebook_size=5", *SETTINGS[1:]]
    init_from_hf(made_language_model("qwen2"), tmp_path / "start", overrides=settings)
    with pytest.raises(ValueError, match=r"text_size and codebook_size are \(61, 13\) and \(61, 5\)"):
        compare_logits(*open_both(made_start, tmp_path / "start"))


def test_a_tied_table_counts_once(made_language_model: Made) -> None:
    for family in ("qwen2", "qwen2, tied"):
        found = inspect(open_checkpoint(made_language_model(family)))
        assert found["num_parameters"] == language_model(family).num_parameters()


def test_tokenizers_travel(made_language_model: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(ImageTrainingConfig(codebook_size=16, code_dim=4, widths=(4, 4), norm_groups=2)).save_pretrained("vq")
    init_from_hf(made_language_model("qwen2"), "start", image_tokenizer="vq")
    extract_visual("start", "visual.safetensors")
    # A folder that was moved has its own beside it.
    shutil.move("start", "moved")
    export_hf("moved", "exported")
    assert (tmp_path / "exported" / "image_tokenizer" / "config.json").is_file()
    # On another machine there is none until one is named.
    shutil.rmtree("moved")
    merge(made_language_model("qwen2"), "visual.safetensors", "merged")
    assert open_checkpoint("merged").config.data.image_tokenizer == ""
    export_hf("merged", "without")
    assert not (tmp_path / "without" / "image_tokenizer").exists()
    export_hf("merged", "named", image_tokenizer="vq")
    assert (tmp_path / "named" / "image_tokenizer" / "config.json").is_file()
    assert not compare(*open_both("named", "exported")).problems


def test_bin_cut_anywhere(made_language_model: Made, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_language_model("qwen2"))
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    for zipped in (True, False):
        torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        whole = (source / "pytorch_model.bin").read_bytes()
        for share in range(12):
            (source / "pytorch_model.bin").write_bytes(whole[: len(whole) * share // 12])
            with refused(tmp_path / "start", source / "pytorch_model.bin"):
                init_from_hf(source, tmp_path / "start", overrides=SETTINGS)
