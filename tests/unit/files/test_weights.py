"""Weights are numbers, and an image tokenizer is whole, wherever it is opened or copied."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from mars_megatron.export.processing_mars import SUBFOLDER, MarsProcessor
from mars_megatron.files.weights import NoNumbersError, are_numbers, check_numbers
from mars_megatron.tokenizers import load_image_tokenizer
from mars_megatron.tokenizers.image import copy_image_tokenizer

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NAN, INF = float("nan"), float("inf")
WEIGHTS = "diffusion_pytorch_model.safetensors"
CODEBOOK = "quantize.embedding.weight"
Tensors = dict[str, Tensor]
Change = Callable[[Path], object]


@given(
    dtype=st.sampled_from(FLOATS),
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4),
    places=st.sets(st.integers(0, 624), min_size=1, max_size=4),
    value=st.sampled_from([NAN, -NAN, INF, -INF]),
    transposed=st.booleans(),
)
def test_every_value_that_is_no_number_is_found(
    dtype: torch.dtype, shape: list[int], places: set[int], value: float, transposed: bool
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert are_numbers(tensor)
    for place in places:
        tensor.view(-1)[place % tensor.numel()] = value
    if transposed and tensor.ndim > 1:
        tensor = tensor.transpose(0, -1)
    found = np.argwhere(~np.isfinite(tensor.double().numpy()))
    with mock.patch("mars_megatron.files.weights._AT_ONCE", 7), pytest.raises(NoNumbersError) as caught:
        check_numbers(tensor, "a.weight", Path("file"))
    assert str(caught.value).startswith(
        f"file: a.weight has {len(found)} of {tensor.numel()} values that are no numbers, the first is {value} at "
        f"{found[0].tolist()}; "
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_and_the_smallest_numbers_are_numbers(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = torch.tensor([info.max, info.min, info.tiny, info.smallest_normal / 2, 0.0, -0.0], dtype=dtype)
    assert are_numbers(torch.full((3000,), info.max, dtype=dtype)) and are_numbers(values)  # no sum of them overflows


def test_what_has_no_such_values_is_fine() -> None:
    for tensor in (torch.empty(0, 3), torch.arange(3), torch.tensor([True]), torch.ones(2, dtype=torch.uint8)):
        check_numbers(tensor, "a", "file")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vq") / "plain"
    torch.manual_seed(0)
    small_model().save_pretrained(folder)
    return folder


def small_model() -> VQModel:
    return VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_num_groups=4,
    )


def tensors(change: Callable[[Tensors], object]) -> Change:
    """Other tensors in the file."""

    def apply(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS, {"format": "pt"})

    return apply


def value(name: str, value: float, dtype: torch.dtype = torch.float32) -> Change:
    """A value in the middle of a tensor, in a file of a type."""

    def change(found: Tensors) -> None:
        for other, tensor in found.items():
            found[other] = tensor.to(dtype)
        found[name].view(-1)[found[name].numel() // 2] = value

    return tensors(change)


def config(**settings: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def written(content: str | bytes) -> Change:
    """Something else under the name of the weights."""
    return lambda folder: (folder / WEIGHTS).write_bytes(content if isinstance(content, bytes) else content.encode())


def sharded(change: Callable[[Path], object] = lambda shard: None) -> Change:
    """The same weights in several files, one of them changed."""

    def apply(folder: Path) -> None:
        model = VQModel.from_pretrained(folder)
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="20KB")
        change(sorted(folder.glob("*-of-*.safetensors"))[1])

    return apply


def in_shard(shard: Path) -> None:
    found = load_file(shard)
    next(iter(found.values())).view(-1)[0] = NAN
    save_file(found, shard, {"format": "pt"})


def pickled(change: Callable[[Tensors], object] = lambda found: None, share: float = 1.0) -> Change:
    """The same weights as diffusers saved them before safetensors."""

    def apply(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        (folder / WEIGHTS).unlink()
        file = folder / "diffusion_pytorch_model.bin"
        torch.save(found, file)
        os.truncate(file, int(file.stat().st_size * share))

    return apply


def other_class(folder: Path) -> None:
    shutil.rmtree(folder)
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder)


def of_another_shape(found: Tensors) -> None:
    found[CODEBOOK] = found[CODEBOOK][:8].clone()


FINE: dict[str, Change] = {
    "as it was saved": lambda folder: None,
    "fp64": tensors(lambda found: found.update({name: tensor.double() for name, tensor in found.items()})),
    "a pickle": pickled(),
    "several files": sharded(),
    "no class named": config(_class_name="VQModel", _diffusers_version="0.10"),
}
DAMAGED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nan in the codebook": (value(CODEBOOK, NAN), (WEIGHTS, f"{CODEBOOK} has 1 of 64 values", "nan at [8, 0]")),
    "inf in the encoder": (value("encoder.conv_in.weight", INF), (WEIGHTS, "encoder.conv_in.weight has 1", "inf at")),
    "-inf in a bias": (value("decoder.conv_out.bias", -INF), (WEIGHTS, "decoder.conv_out.bias has 1", "-inf at [1]")),
    "nan in fp16": (value("quant_conv.weight", NAN, torch.float16), (WEIGHTS, "quant_conv.weight has 1", "nan at")),
    "inf in bf16": (value("post_quant_conv.bias", INF, torch.bfloat16), (WEIGHTS, "post_quant_conv.bias has 1")),
    "too large for fp32": (value("decoder.conv_in.bias", 1e300, torch.float64), (WEIGHTS, "decoder.conv_in.bias")),
    "nan in one file of several": (sharded(in_shard), ("index.json", "has 1 of")),
    "nan in a pickle": (pickled(lambda found: found[CODEBOOK].fill_(NAN)), (".bin", f"{CODEBOOK} has 64 of 64")),
    "no codebook": (tensors(lambda found: found.pop(CODEBOOK)), (WEIGHTS, f"lacks {CODEBOOK} (and 0 more)")),
    "no bias": (tensors(lambda found: found.pop("decoder.conv_in.bias")), (WEIGHTS, "lacks decoder.conv_in.bias")),
    "no decoder": (
        tensors(lambda found: [found.pop(name) for name in list(found) if name.startswith("decoder.")]),
        (WEIGHTS, "lacks decoder.", "more)"),
    ),
    "a pickle without a tensor": (
        pickled(lambda found: found.pop("quant_conv.bias")),
        (".bin", "lacks quant_conv.bias"),
    ),
    "one more": (tensors(lambda found: found.update(ema=torch.ones(2))), (WEIGHTS, "has ema (and 0 more)")),
    "another model": (
        tensors(lambda found: (found.clear(), found.update({"model.norm.weight": torch.ones(2)}))),
        (WEIGHTS, "lacks"),
    ),
    "fewer layers than config.json says": (config(layers_per_block=2), (WEIGHTS, "lacks", "config.json")),
    "more layers than config.json says": (config(mid_block_add_attention=False), (WEIGHTS, "has", "attentions")),
    "another shape": (tensors(of_another_shape), (WEIGHTS, CODEBOOK, "[16, 4]", "[8, 4]")),
    "more codes than rows": (config(num_vq_embeddings=32), (WEIGHTS, CODEBOOK, "[32, 4]", "[16, 4]")),
    "int8": (
        tensors(lambda found: found.update({CODEBOOK: found[CODEBOOK].to(torch.int8)})),
        (WEIGHTS, CODEBOOK, "type I8", "F32"),
    ),
    "fp8": (
        tensors(lambda found: found.update({CODEBOOK: found[CODEBOOK].to(torch.float8_e4m3fn)})),
        (WEIGHTS, CODEBOOK, "type F8_E4M3", "F32"),
    ),
    "cut off": (lambda folder: os.truncate(folder / WEIGHTS, 5000), (WEIGHTS, "cut off")),
    "cut off at its end": (
        lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1),
        (WEIGHTS, "cut off"),
    ),
    "a pickle cut off": (pickled(share=0.5), ("diffusion_pytorch_model.bin",)),
    "a file of several cut off": (
        sharded(lambda shard: os.truncate(shard, shard.stat().st_size - 9)),
        ("-00002-of-", "cut off"),
    ),
    "a file of several missing": (sharded(lambda shard: shard.unlink()), ("-00002-of-",)),
    "empty": (written(""), (WEIGHTS, "is empty")),
    "a Git-LFS pointer": (
        written("version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 96\n"),
        (WEIGHTS, "Git-LFS pointer", "git lfs pull"),
    ),
    "a web page": (written("\n<!DOCTYPE html>\n<title>é</title>"), (WEIGHTS, "web page", "hf download")),
    "a message": (written("Entry not found"), (WEIGHTS, "'Entry not found'")),
    "a message as JSON": (written('{"error": "Access is restricted"}'), (WEIGHTS, "Access is restricted")),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), ("holds no weights", WEIGHTS)),
    "another name": (
        lambda folder: (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors"),
        ("holds no weights", "diffusion_pytorch_model.fp16.safetensors must have such a name"),
    ),
    "another class": (other_class, ("config.json", "AutoencoderKL", "VQModel")),
    "another class named": (config(_class_name="VQGANModel"), ("config.json", "VQGANModel", "VQModel")),
    "a configuration of transformers": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "emu3"}'),
        ("config.json", "emu3", "VQModel"),
    ),
    "a configuration that is none": (
        lambda folder: (folder / "config.json").write_text("[]"),
        ("config.json", "VQModel"),
    ),
    "an empty configuration": (lambda folder: (folder / "config.json").write_text(""), ("config.json", "JSON")),
    "settings that are none": (config(norm_num_groups="four"), (WEIGHTS, "cannot be read")),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), ("no config.json",)),
    "quantised": (
        config(quantization_config={"quant_method": "torchao", "quant_type": "int8"}),
        ("quantization_config", "made from"),
    ),
}


def prepared(plain: Path, tmp_path: Path, change: Change) -> Path:
    """A copy as it lies in an exported folder, changed."""
    folder = tmp_path / "a folder" / SUBFOLDER
    shutil.copytree(plain, folder)
    change(folder)
    return folder


def processor(folder: Path) -> MarsProcessor:
    """One that was loaded from the exported folder."""
    result = MarsProcessor.__new__(MarsProcessor)
    result._source, result._hub, result._vq = str(folder.parent), {}, None
    return result


@pytest.mark.parametrize("name", FINE)
def test_whole_ones_are_opened_and_copied(plain: Path, tmp_path: Path, name: str) -> None:
    folder = prepared(plain, tmp_path, FINE[name])
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = load_image_tokenizer(plain).encode(images)
    copy_image_tokenizer(folder, tmp_path / "copy" / SUBFOLDER)
    for path in (folder, tmp_path / "copy" / SUBFOLDER):
        assert torch.equal(load_image_tokenizer(path).encode(images), expected)
        opened = processor(path).load_image_tokenizer()
        assert not opened.training and opened.dtype == torch.float32
    assert load_image_tokenizer(folder).fingerprint == load_image_tokenizer(path).fingerprint


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_not_whole_is_named(plain: Path, tmp_path: Path, name: str) -> None:
    change, messages = DAMAGED[name]
    folder = prepared(plain, tmp_path, change)
    with pytest.raises(ValueError) as caught:
        load_image_tokenizer(folder)
    for message in (str(folder), *messages):
        assert message in str(caught.value)
    with pytest.raises(ValueError, match=SUBFOLDER):
        copy_image_tokenizer(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    if name not in ("int8", "fp8"):  # the exported code cannot read types; what is exported was looked at
        with pytest.raises(ValueError, match=SUBFOLDER):
            processor(folder).load_image_tokenizer()


def test_nothing_is_said_but_the_error(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """diffusers would list every tensor that is missing."""
    folder = prepared(plain, tmp_path, DAMAGED["no decoder"][0])
    with pytest.raises(ValueError):
        load_image_tokenizer(folder)
    out, err = capsys.readouterr()
    assert "decoder" not in out + err
