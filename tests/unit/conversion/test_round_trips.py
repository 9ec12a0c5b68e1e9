"""There and back: what a conversion writes is what was read, and what the trainer itself would have made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mars_megatron.checkpoint import Position, load, load_model, read_config, resolve, save
from mars_megatron.checkpoint.streaming import CheckpointTensors
from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.checkpoints import open_checkpoint
from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf
from mars_megatron.conversion.visual import extract_visual, merge
from mars_megatron.model import MARSModel, build_model
from mars_megatron.model.initialization import start_from_language_model
from mars_megatron.sampling.load import load_for_inference
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training.optimizer import build_optimizer, wrap_data_parallel
from tests.support.refusals import SETTINGS, refused
from tests.support.tiny import one_rank, randomize, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:the result has no text tokenizer")

Made = Callable[[str], Path]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms of experts, one projection": {"model.expert_norms": True, "model.expert_output_projection": False},
    "several experts": {"experts.text": 2, "experts.visual": 4, "router.condition": "text", "router.top_k": 2},
    "stage III": {"image.low_resolution": 8, "image.next_k": 4, "image.order": "regions"},
    "qk norm, no bias, wide heads": {"model.qk_norm": True, "model.qkv_bias": False, "model.head_dim": 6},
}


def stored(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    tensors = CheckpointTensors(resolve(path))
    return {name: tensors.read(name) for name in tensors.tensors}


def parts(path: Path) -> dict[str, Tensor]:
    source = open_checkpoint(path).parts
    return {name: source.read(name) for name in source.tensors}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype and torch.equal(value, second[name]), name


def save_run(folder: Path, config: RunConfig, model: MARSModel) -> None:
    """A checkpoint as the trainer writes it, with optimiser state."""
    groups = one_rank()
    optimizer, scheduler = build_optimizer(wrap_data_parallel([model], config, groups), config, groups)
    optimizer.step()
    save(folder, Position(7, 14), config, groups, [model], optimizer, scheduler)


def built(config: RunConfig) -> MARSModel:
    (model,) = build_model(config, one_rank())
    return model


def values(model: MARSModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("variant", "precision"), [*((name, "fp32") for name in VARIANTS), ("several experts", "bf16")]
)
def test_a_run_comes_back_bit_for_bit(tmp_path: Path, variant: str, precision: str) -> None:
    config = tiny_config({**VARIANTS[variant], "training.precision": precision})
    save_run(tmp_path / "run", config, randomize(built(config)))
    export_hf(tmp_path / "run", tmp_path / "exported", max_shard_size=5_000)
    import_hf(tmp_path / "exported", tmp_path / "back")
    first, second = stored(tmp_path / "run"), stored(tmp_path / "back")
    vocabulary = Vocabulary.from_config(config)
    for table in ("embedding", "head"):
        for expert, rows in (("text", vocabulary.text_size), ("visual", vocabulary.image_size)):
            name = f"{table}.{expert}.weight"
            assert len(first[name]) > rows and first[name][rows:].any(), "there is padding, and it holds something"
            assert not second[name][rows:].any(), "which is not carried on"
            first[name][rows:] = 0
    assert_equal(first, second)
    saved = read_config(resolve(tmp_path / "back"))
    for part in ("model", "experts", "vocabulary", "image"):
        assert getattr(saved, part) == getattr(config, part)
    assert resolve(tmp_path / "back").name == "step_00000007" and saved.training.precision == precision
    loaded = built(config)
    load_model(tmp_path / "back", config, one_rank(), [loaded])


def test_other_types(tmp_path: Path) -> None:
    config = tiny_config()
    save_run(tmp_path / "run", config, randomize(built(config)))
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        export_hf(tmp_path / "run", tmp_path / name, dtype=name)
        assert_equal(parts(tmp_path / name), {key: value.to(dtype) for key, value in parts(tmp_path / "run").items()})
    import_hf(tmp_path / "fp16", tmp_path / "back")
    assert_equal(parts(tmp_path / "back"), parts(tmp_path / "fp16"))


@pytest.mark.parametrize(
    ("family", "precision", "changes"),
    [
        ("qwen2", "fp32", {}),
        ("qwen2", "bf16", {"experts.visual": 4, "router.top_k": 2}),
        ("qwen3", "fp32", {"experts.visual": 4, "router.condition": "text", "model.expert_norms": True}),
        ("qwen3", "bf16", {"model.expert_output_projection": False}),
        ("llama, scaled, tied", "fp32", {"vocabulary.pad_multiple": 32, "training.seed": 7, "experts.visual": 2}),
        ("llama, scaled, tied", "bf16", {"model.expert_norms": True}),
    ],
)
def test_start_is_what_the_trainer_makes_of_the_language_model(
    made_language_model: Made, tmp_path: Path, family: str, precision: str, changes: dict[str, Any]
) -> None:
    """`checkpoint.init_from` with a language model of this project, `init_visual` copy."""
    source, settings = made_language_model(family), [f"--{name}={value}" for name, value in changes.items()]
    init_from_hf(source, tmp_path / "start", overrides=[*SETTINGS, *settings], dtype=precision)
    config = read_config(resolve(tmp_path / "start"))
    assert config.training.precision == precision and config.experts.visual == changes.get("experts.visual", 1)
    groups, expected, found = one_rank(), randomize(built(config)), randomize(built(config), seed=1)
    # A language model that has nothing to do with the visual side: one expert, and other values in it.
    alone = [setting for setting in settings if not setting.startswith(("--experts", "--router"))]
    init_from_hf(source, tmp_path / "text", overrides=[*SETTINGS, *alone], dtype=precision)
    load_model(tmp_path / "text", config, groups, [expected], text_only=True)
    vocabulary = Vocabulary.from_config(config)
    start_from_language_model(expected, config, vocabulary, groups)
    load_model(tmp_path / "start", config, groups, [found])
    with torch.no_grad():
        for table in (expected.embedding, expected.head):  # the trainer fills padding too, which nothing reads
            table.visual.weight[vocabulary.image_size :] = 0
    assert_equal(values(found), values(expected))


def test_types_of_the_source(made_language_model: Made, tmp_path: Path) -> None:
    """fp16 holds no gradients: it becomes fp32 unless bf16 is asked for; bf16 stays."""
    original = load_file(made_language_model("qwen2") / "model.safetensors")
    table, name = "model.embed_tokens.weight", "embedding.text.weight"
    for dtype, wanted, made in (
        (torch.float16, "auto", torch.float32),
        (torch.float16, "bf16", torch.bfloat16),
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.bfloat16, "fp32", torch.float32),
        (torch.float32, "auto", torch.float32),
    ):
        source, target = tmp_path / f"{dtype}{wanted}", tmp_path / f"{dtype}{wanted}_start"
        source.mkdir()
        (source / "config.json").write_bytes((made_language_model("qwen2") / "config.json").read_bytes())
        save_file({key: value.to(dtype) for key, value in original.items()}, source / "model.safetensors")
        init_from_hf(source, target, overrides=SETTINGS, dtype=wanted)
        tensors = stored(target)
        assert {value.dtype for value in tensors.values()} == {made}
        assert torch.equal(tensors[name][:61], original[table].to(dtype).to(made)) and not tensors[name][61:].any()


def test_start_is_started_from_and_sampled_from_but_not_resumed(made_start: Path) -> None:
    config, groups = read_config(resolve(made_start)), one_rank()
    model = built(config)
    optimizer, scheduler = build_optimizer(wrap_data_parallel([model], config, groups), config, groups)
    with pytest.raises(ValueError, match="parameters alone and cannot be resumed.*checkpoint.init_from"):
        load(resolve(made_start), config, groups, [model], optimizer, scheduler)
    load_model(made_start, config, groups, [model], text_only=True)
    loaded = load_for_inference(made_start, groups=groups)
    assert loaded.vocabulary.text_size == 61 and not loaded.model.training
    text = "decoder.layers.0.mlp.text.linear_fc2.weight"
    assert torch.equal(values(loaded.model)[text], values(model)[text])


def as_shards(tensors: dict[str, Tensor], folder: Path, suffix: str, write: Callable[[dict, Path], object]) -> None:
    """Two files and their index."""
    names, stem = sorted(tensors), {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    weight_map = {name: f"{stem}-0000{place % 2 + 1}-of-00002.{suffix}" for place, name in enumerate(names)}
    for file in set(weight_map.values()):
        write({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_every_kind_of_file(made_language_model: Made, made_start: Path, tmp_path: Path) -> None:
    original = made_language_model("qwen2")
    tensors, expected = load_file(original / "model.safetensors"), stored(made_start)

    def old(content: dict[str, Tensor], path: Path) -> None:
        torch.save(content, path, _use_new_zipfile_serialization=False)

    kinds: dict[str, Callable[[Path], object]] = {
        "sharded safetensors": lambda folder: as_shards(tensors, folder, "safetensors", save_file),
        "bin": lambda folder: torch.save(tensors, folder / "pytorch_model.bin"),
        "sharded bin": lambda folder: as_shards(tensors, folder, "bin", torch.save),
        "old bin": lambda folder: old(tensors, folder / "pytorch_model.bin"),
        "sharded old bin": lambda folder: as_shards(tensors, folder, "bin", old),
    }
    for kind, write in kinds.items():
        source, target = tmp_path / kind, tmp_path / f"{kind}, start"
        source.mkdir()
        (source / "config.json").write_bytes((original / "config.json").read_bytes())
        write(source)
        init_from_hf(source, target, overrides=SETTINGS)
        assert_equal(stored(target), expected)


@pytest.mark.parametrize("saved_head", [False, True])
def test_tied_head(made_language_model: Made, tmp_path: Path, saved_head: bool) -> None:
    """The embedding is the head, also where an older transformers saved a head beside it."""
    source = tmp_path / "source"
    source.mkdir()
    tensors = load_file(made_language_model("qwen2, tied") / "model.safetensors")
    assert "lm_head.weight" not in tensors
    if saved_head:
        tensors["lm_head.weight"] = torch.zeros(61, 32)
    (source / "config.json").write_bytes((made_language_model("qwen2, tied") / "config.json").read_bytes())
    save_file(tensors, source / "model.safetensors")
    init_from_hf(source, tmp_path / "start", overrides=SETTINGS)
    start = stored(tmp_path / "start")
    for expert in ("text", "visual"):
        assert torch.equal(start[f"embedding.{expert}.weight"], start[f"head.{expert}.weight"])
    assert torch.equal(start["head.text.weight"][:61], tensors["model.embed_tokens.weight"])


def trained(start: Path, folder: Path, *changes: str) -> RunConfig:
    """A run whose visual side differs from the start's, as after training with the text side frozen."""
    config = override(read_config(resolve(start)), changes)
    groups, model = one_rank(), built(config)
    load_model(start, config, groups, [model])
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".visual." in name:
                parameter.add_(torch.randn_like(parameter))
    save_run(folder, config, model)
    return config


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_extracted_and_merged(made_language_model: Made, tmp_path: Path, dtype: str) -> None:
    source = made_language_model("qwen2")
    init_from_hf(source, tmp_path / "start", overrides=[*SETTINGS, "--experts.visual=2"], dtype=dtype)
    trained(tmp_path / "start", tmp_path / "run")
    expected, file = parts(tmp_path / "run"), tmp_path / "visual.safetensors"
    export_hf(tmp_path / "run", tmp_path / "exported")
    for origin in (tmp_path / "run", tmp_path / "exported"):
        file.unlink(missing_ok=True)
        extract_visual(origin, file)
        assert load_file(file).keys() == {name for name in expected if ".visual." in name}
    for number, base in enumerate((source, tmp_path / "start", tmp_path / "exported")):
        target = tmp_path / f"merged {number}"
        merge(base, file, target)
        assert_equal(parts(target), expected)
        assert resolve(target).name == "step_00000007"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (("--freeze.norms=false",), "model.layers.0.input_layernorm.weight"),
        (("--freeze.text=false",), "model.layers.0.mlp.text.up_proj.weight"),
    ],
)
def test_whatever_is_trained_is_extracted(
    made_language_model: Made, made_start: Path, tmp_path: Path, changes: tuple[str, ...], part: str
) -> None:
    config = trained(made_start, tmp_path / "run", *changes)
    file = extract_visual(tmp_path / "run", tmp_path / "visual.safetensors")
    assert part in load_file(file)
    merge(made_language_model("qwen2"), file, tmp_path / "merged")
    assert_equal(parts(tmp_path / "merged"), parts(tmp_path / "run"))
    assert replace(read_config(resolve(tmp_path / "merged")), data=config.data) == config


def test_another_base_is_refused(made_language_model: Made, made_start: Path, tmp_path: Path) -> None:
    """One value of one tensor is enough, and so is another family."""
    file = extract_visual(made_start, tmp_path / "visual.safetensors")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((made_language_model("qwen2") / "config.json").read_bytes())
    tensors = load_file(made_language_model("qwen2") / "model.safetensors")
    tensors["model.layers.3.mlp.down_proj.weight"][5, 5] += 1e-6
    save_file(tensors, other / "model.safetensors")
    with refused(tmp_path / "merged", other, file, "sha256"):
        merge(other, file, tmp_path / "merged")
    with refused(tmp_path / "merged", made_language_model("qwen3"), "self_attn.text.q_proj.bias", file):
        merge(made_language_model("qwen3"), file, tmp_path / "merged")


def test_frozen_visual_side_is_not_extracted(made_start: Path, tmp_path: Path) -> None:
    trained(made_start, tmp_path / "run", "--freeze.visual=true", "--freeze.text=false")
    with refused(tmp_path / "visual.safetensors", "freeze.visual", tmp_path / "run"):
        extract_visual(tmp_path / "run", tmp_path / "visual.safetensors")
