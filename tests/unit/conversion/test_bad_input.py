"""What cannot be converted is refused with file and tensor named, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf
from mars_megatron.conversion.visual import merge
from tests.support.refusals import SETTINGS, refused

pytestmark = pytest.mark.filterwarnings("ignore:the result has no text tokenizer")

Made = Callable[[str], Path]
Copied = Callable[[Path], Path]
INDEX = "model.safetensors.index.json"
WEIGHT = "model.layers.1.mlp.up_proj.weight"


def start(source: Path, target: Path) -> None:
    init_from_hf(source, target, overrides=SETTINGS)


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return path


def as_bin(folder: Path, **options: Any) -> Path:
    """The weights as a pickle instead."""
    path = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), path, **options)
    (folder / "model.safetensors").unlink()
    return path


def cut_off(path: Path, share: float = 0.5) -> Path:
    os.truncate(path, int(path.stat().st_size * share))
    return path


@pytest.mark.parametrize(
    ("family", "changes", "messages"),
    [
        ("qwen2", {"model_type": "gpt2"}, ("model_type 'gpt2'", "qwen3")),
        ("qwen2", {"model_type": "qwen2_moe"}, ("model_type 'qwen2_moe'", "dense")),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": None},
            ("layer_types", "full_attention"),
        ),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            ("rope_type is 'yarn'", "llama3"),
        ),
        ("llama", {"mlp_bias": True}, ("mlp_bias is True",)),
        ("llama", {"attention_bias": True}, ("attention_bias is True",)),
        ("qwen3", {"attention_bias": True}, ("attention_bias is True",)),
        ("qwen2", {"hidden_act": "gelu"}, ("hidden_act is 'gelu'",)),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            ("partial_rotary_factor is 0.5",),
        ),
        ("qwen2", {"num_hidden_layers": "two"}, ("config.json",)),
        ("qwen2", {"num_attention_heads": 5}, ("num_attention_heads",)),
    ],
)
def test_configurations(
    made_language_model: Made, copied: Copied, tmp_path: Path, family: str, changes: dict, messages: tuple[str, ...]
) -> None:
    source = copied(made_language_model(family))
    change_config(source, **changes)
    with refused(tmp_path / "target", *messages):
        start(source, tmp_path / "target")


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 4}', ""])
def test_configuration_that_is_none(made_language_model: Made, copied: Copied, tmp_path: Path, text: str) -> None:
    source = copied(made_language_model("qwen2"))
    (source / "config.json").write_text(text)
    with refused(tmp_path / "target", source / "config.json", "model_type"):
        start(source, tmp_path / "target")


def test_nothing_there(made_language_model: Made, copied: Copied, tmp_path: Path) -> None:
    with refused(tmp_path / "target", tmp_path / "nowhere" / "config.json", "does not exist"):
        start(tmp_path / "nowhere", tmp_path / "target")
    source = copied(made_language_model("qwen2"))
    (source / "model.safetensors").unlink()
    with refused(tmp_path / "target", source, "no weights", INDEX):
        start(source, tmp_path / "target")


def test_missing_shard(made_export: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_export)
    shard = sorted(source.glob("*.safetensors"))[1]
    lost = min(load_file(shard))
    shard.unlink()
    with refused(tmp_path / "target", shard, "missing", lost):
        import_hf(source, tmp_path / "target")


def test_index_of_other_shards(made_export: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_export)
    index = json.loads((source / INDEX).read_text())
    name, file = next(iter(index["weight_map"].items()))
    other = next(shard for shard in index["weight_map"].values() if shard != file)
    index["weight_map"][name] = other
    (source / INDEX).write_text(json.dumps(index))
    with refused(tmp_path / "target", source / other, name, "the index"):
        import_hf(source, tmp_path / "target")
    index["weight_map"][name] = "../elsewhere.safetensors"
    (source / INDEX).write_text(json.dumps(index))
    with refused(tmp_path / "target", source / INDEX, "../elsewhere.safetensors"):
        import_hf(source, tmp_path / "target")
    (source / INDEX).write_text("{}")
    with refused(tmp_path / "target", source / INDEX, "weight_map"):
        import_hf(source, tmp_path / "target")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors(made_language_model: Made, copied: Copied, tmp_path: Path, share: float) -> None:
    source = copied(made_language_model("qwen2"))
    file = cut_off(source / "model.safetensors", share)
    with refused(tmp_path / "target", file, "cut off"):
        start(source, tmp_path / "target")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_bin(made_language_model: Made, copied: Copied, tmp_path: Path, share: float, zipped: bool) -> None:
    source = copied(made_language_model("qwen2"))
    file = cut_off(as_bin(source, _use_new_zipfile_serialization=zipped), share)
    with refused(tmp_path / "target", file, "cut off"):
        start(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda t: t.update({WEIGHT: t[WEIGHT][:-1].clone()}), (WEIGHT, "[47, 32]", "[48, 32]", "model.safetensors")),
        (lambda t: t.update({WEIGHT: t[WEIGHT].flatten()}), (WEIGHT, "[1536]", "[48, 32]", "model.safetensors")),
        (lambda t: t.pop(WEIGHT), (WEIGHT, "lacks", "config.json")),
        (lambda t: t.update({"model.layers.9.extra": t[WEIGHT].clone()}), ("model.layers.9.extra", "unknown")),
        (lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.int8)}), (WEIGHT, "int8", "model.safetensors")),
        (lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.float8_e4m3fn)}), (WEIGHT, "F8_E4M3", "model.safetensors")),
    ],
)
def test_tensors(
    made_language_model: Made, copied: Copied, tmp_path: Path, change: Callable[[dict], object], messages: tuple
) -> None:
    source = copied(made_language_model("qwen2"))
    change_weights(source, change)
    with refused(tmp_path / "target", source, *messages):
        start(source, tmp_path / "target")


def test_untied_head_is_not_taken_for_a_tied_one(made_language_model: Made, copied: Copied, tmp_path: Path) -> None:
    """config.json says that there is a head; the weights lack it."""
    source = copied(made_language_model("qwen2, tied"))
    change_config(source, tie_word_embeddings=False)
    with refused(tmp_path / "target", "lm_head.weight", "config.json"):
        start(source, tmp_path / "target")


class Spell:
    """What a malicious pickle does when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_execute_nothing(made_language_model: Made, copied: Copied, tmp_path: Path, zipped: bool) -> None:
    source, marker = copied(made_language_model("qwen2")), tmp_path / "source" / "executed"
    file = as_bin(source)
    content = {**torch.load(file), "spell": Spell(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with refused(tmp_path / "target", file, "weights_only"):
        start(source, tmp_path / "target")
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the spell works where it is let"


def test_plain_pickles_and_other_content(made_language_model: Made, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_language_model("qwen2"))
    file, marker = as_bin(source), tmp_path / "source" / "executed"
    file.write_bytes(pickle.dumps(Spell(marker)))
    with refused(tmp_path / "target", file, "weights_only"):
        start(source, tmp_path / "target")
    assert not marker.exists()
    for content in ([torch.ones(2)], {"weights": {"a": torch.ones(2)}}):
        torch.save(content, file)
        with refused(tmp_path / "target", file, "dictionary of tensors"):
            start(source, tmp_path / "target")


def test_destinations(made_language_model: Made, made_start: Path, made_export: Path, tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("mine")
    source, visual = made_language_model("qwen2"), tmp_path / "nothing"
    for target in (full, file):
        for call in (
            lambda target=target: start(source, target),
            lambda target=target: export_hf(made_start, target),
            lambda target=target: import_hf(made_export, target),
        ):
            with refused(target, target, "not an empty folder"):
                call()
    assert (full / "mine.txt").read_text() == file.read_text() == "mine" and list(full.iterdir()) == [full / "mine.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    start(source, empty)
    assert (empty / "latest").is_file() and not visual.exists()


def test_checkpoint_files(made_start: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_start)
    step = source / "step_00000000"
    largest = max(step.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[:-1])
    with refused(tmp_path / "target", largest, "cut off", ".weight"):
        export_hf(source, tmp_path / "target")
    largest.unlink()
    with refused(tmp_path / "target", largest, "missing", ".weight"):
        export_hf(source, tmp_path / "target")
    largest.write_bytes(content)
    for name in (".metadata", "metadata.json"):
        kept = (step / name).read_bytes()
        (step / name).unlink()
        with refused(tmp_path / "target", step, "metadata"):
            export_hf(source, tmp_path / "target")
        cut = kept[: len(kept) // 2]
        (step / name).write_bytes(cut)
        with refused(tmp_path / "target", step / name):
            export_hf(source, tmp_path / "target")
        (step / name).write_bytes(kept)
    export_hf(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (("ffn_hidden_size: 48", "ffn_hidden_size: 40"), ("mlp.text.linear_fc1.weight_w", "[48, 32]", "[40, 32]")),
        (("qk_norm: false", "qk_norm: true"), ("lacks", "q_layernorm")),
        (("num_layers: 4", "num_layers: 3"), ("decoder.layers.3.", "unknown")),
        (("hidden_size: 32", "hidden_size: many"), ("config.yaml", "hidden_size")),
    ],
)
def test_checkpoint_of_another_shape(
    made_start: Path, copied: Copied, tmp_path: Path, change: tuple[str, str], messages: tuple[str, ...]
) -> None:
    source = copied(made_start)
    path = source / "step_00000000" / "config.yaml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1) if "ffn" not in change[0] else text.replace(*change))
    with refused(tmp_path / "target", source, *messages):
        export_hf(source, tmp_path / "target")


def test_exported_folders(made_export: Path, copied: Copied, tmp_path: Path) -> None:
    source = copied(made_export)
    for text in ("{", "{}", '{"training_step": null}'):
        kept = (source / "config.json").read_text()
        (source / "config.json").write_text(text)
        with refused(tmp_path / "target", source / "config.json"):
            import_hf(source, tmp_path / "target")
        (source / "config.json").write_text(kept)
    shard = sorted(source.glob("*.safetensors"))[-1]
    cut_off(shard, 0.9)
    with refused(tmp_path / "target", shard, "cut off"):
        import_hf(source, tmp_path / "target")
    (source / "training_config.yaml").write_text("model: 3")
    with refused(tmp_path / "target", "training_config.yaml"):
        import_hf(source, tmp_path / "target")


def test_visual_files(made_language_model: Made, made_visual: Path, copied: Copied, tmp_path: Path) -> None:
    base, file = made_language_model("qwen2"), copied(made_visual)
    cut_off(file, 0.9)
    with refused(tmp_path / "target", file, "cut off"):
        merge(base, file, tmp_path / "target")
    save_file({"a": torch.ones(2)}, file)
    with refused(tmp_path / "target", file, "extract-visual"):
        merge(base, file, tmp_path / "target")
    with refused(tmp_path / "target", tmp_path / "nowhere.safetensors", error=OSError):
        merge(base, tmp_path / "nowhere.safetensors", tmp_path / "target")
    with refused(tmp_path / "target", tmp_path / "nowhere", "does not exist"):
        merge(tmp_path / "nowhere", made_visual, tmp_path / "target")
