"""Tokenizers of other kinds stand beside those there are: nothing but KINDS knows of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from mars_megatron.checkpoint.tokenizers import fingerprint, keep_copies
from mars_megatron.data.store import Store
from mars_megatron.export.folder import write_companions
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.sampling import Sampler, load_for_inference
from mars_megatron.tokenizers import image, load_image_tokenizer, load_text_tokenizer, text
from mars_megatron.tokenizers.tokenizer_files import image_fingerprint, text_fingerprint
from tests.support.tiny_run import CODEBOOK_SIZE, DOWNSAMPLE, RESOLUTION, TinyRun, write_run


class Bytes:
    """A text tokenizer: some bytes of a text, folded into 16 ids."""

    names = {"eos_token": "<end>"}
    size, rows, eos_id, bos_id, unk_id, wants_bos = 17, 17, 16, None, None, False

    def __init__(self, path: Path) -> None:
        self.path, self.file = str(path), path / "tokenizer.json"
        self.fingerprint = text_fingerprint(path)

    @property
    def content(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return [byte % 16 for byte in text.encode()]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + number) for number in ids if number < 16)

    def tokens_from(self, first: int) -> dict[str, int]:
        return {str(number): number for number in range(first, self.size)}


class Greys:
    """An image tokenizer: the mean of each square, in 16 steps of grey."""

    codebook_size, downsample = CODEBOOK_SIZE, DOWNSAMPLE

    def __init__(self, path: str | Path, device: torch.device | str) -> None:
        self.path, self.fingerprint = str(path), image_fingerprint(path)

    def grid(self, resolution: int) -> tuple[int, int]:
        return resolution // self.downsample, resolution // self.downsample

    def encode(self, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
        pixels = image.channels_first(images).float().mean(1, keepdim=True)
        return torch.nn.functional.avg_pool2d(pixels, self.downsample).flatten(1).div(16).long()

    def decode(self, codes: torch.Tensor, grid: tuple[int, int], batch_size: int = 64) -> torch.Tensor:
        squares = (codes * 16 + 8).to(torch.uint8).view(len(codes), *grid)
        return squares.repeat_interleave(2, 1).repeat_interleave(2, 2)[..., None].expand(-1, -1, -1, 3)


def says(file: str, kind: str, path: Path) -> bool:
    return (path / file).is_file() and json.loads((path / file).read_text()).get("kind") == kind


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders of both, known in this test."""
    monkeypatch.setattr(text, "KINDS", [(lambda path: says("tokenizer.json", "bytes", path), Bytes), *text.KINDS])
    monkeypatch.setattr(image, "KINDS", [(lambda path: says("config.json", "greys", path), Greys), *image.KINDS])
    texts, images = tmp_path / "bytes", tmp_path / "greys"
    for folder, file, content in ((texts, "tokenizer.json", "bytes"), (images, "config.json", "greys")):
        folder.mkdir()
        (folder / file).write_text(json.dumps({"kind": content}))
    return texts, images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("run"))


def test_they_index_sample_describe_and_are_kept(run: TinyRun, folders: tuple[Path, Path], tmp_path: Path) -> None:
    texts, images = map(str, folders)
    options = BuildOptions(resolution=RESOLUTION, workers=0)
    build_index(run.images, tmp_path / "index", texts, images, options=options, progress=False)
    manifest = Store(tmp_path / "index").manifest
    assert (manifest.text_tokenizer.eos_id, manifest.image_tokenizer.codebook_size) == (16, CODEBOOK_SIZE)

    overrides = [f"--data.text_tokenizer={texts}", f"--data.image_tokenizer={images}"]
    sampler = Sampler(load_for_inference(run.checkpoint, overrides=overrides))
    assert isinstance(sampler.text_tokenizer, Bytes) and isinstance(sampler.image_tokenizer, Greys)
    codes = sampler.sample(["a red square"], 2)
    pixels = sampler.decode(codes)
    assert pixels.shape == (2, RESOLUTION, RESOLUTION, 3) and torch.equal(sampler.image_tokenizer.encode(pixels), codes)
    assert all(set(caption) <= set("abcdefghijklmnop") for caption in sampler.caption(pixels))

    config = sampler.loaded.config
    prints = {name: fingerprint(name, getattr(config.data, name)) for name in ("text_tokenizer", "image_tokenizer")}
    keep_copies(tmp_path / "copies", config, prints)
    for setting, name, load in (
        ("text_tokenizer", "tokenizer", load_text_tokenizer),
        ("image_tokenizer", "image_tokenizer", load_image_tokenizer),
    ):
        copy = tmp_path / "copies" / name
        assert load(copy).fingerprint == prints[setting]


def test_an_exported_folder_refuses_what_its_code_does_not_read(
    run: TinyRun, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    own = run.config.data
    for change, message in (({"text_tokenizer": folders[0]}, "is a Bytes"), ({"image_tokenizer": folders[1]}, "Greys")):
        data = {**{name: getattr(own, name) for name in ("text_tokenizer", "image_tokenizer")}, **change}
        with pytest.raises(ValueError, match=message):
            write_companions(tmp_path, run.config, step=1, dtype="fp32", **{k: str(v) for k, v in data.items()})
