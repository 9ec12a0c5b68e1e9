"""Raw inputs for tests of building indices, and the usual way of building from them."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mars_megatron.data.store import Store
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import KIND_IMAGE, KIND_INTERLEAVED, KIND_PAIR
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions

RESOLUTION, LOW = 8, 4


def picture(seed: int = 0, size: tuple[int, int] = (8, 8), ending: str = "png", **options: Any) -> bytes:
    """A noise image as the bytes of a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return image_bytes(Image.fromarray(pixels), ending, **options)


def image_bytes(image: Image.Image, ending: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options)
    return file.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]] | Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_lines(path: Path, lines: Iterable[dict[str, Any] | bytes], images: Mapping[str, bytes] = {}) -> Path:  # noqa: B006
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (path.parent / name).write_bytes(data)
    data = [line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in data))
    return path


def build(
    inputs: Any, output: Path, tokenizers: tuple[Any, Any], say: Any = lambda message: None, **options: Any
) -> Manifest:
    """build_index with options by name, in this process unless `workers` says otherwise."""
    if tokenizers[1] is not None:
        options = {"resolution": RESOLUTION} | options
    values = BuildOptions(**{"workers": 0, "batch_size": 4, **options})
    return build_index(inputs, output, *tokenizers, options=values, progress=False, say=say)  # type: ignore[return-value]


def log(prefix: Path) -> list[dict[str, Any]]:
    """What PREFIX.skipped.jsonl says."""
    return [json.loads(line) for line in Path(f"{prefix}.skipped.jsonl").read_text(encoding="utf-8").splitlines()]


def documents(prefix: Path, tokenizer: Any) -> list[Any]:
    """Every document with its texts decoded: ("text", text), ("image", captions, codes), ("pair", captions, low codes,
    codes) or ("parts", [text or codes])."""
    store, found = Store(prefix), []
    for number in range(store.num_documents):
        kind = store.kind(number)
        if kind == KIND_INTERLEAVED:
            parts = [
                tokens.tolist() if is_image else tokenizer.decode(tokens.tolist())
                for is_image, tokens in store.parts(number)
            ]
            found.append(("parts", parts))
            continue
        texts = [tokenizer.decode(ids.tolist()) for ids in store.captions(number)]
        if kind == KIND_IMAGE:
            found.append(("image", texts, store.codes(number).tolist()))
        elif kind == KIND_PAIR:
            found.append(("pair", texts, store.low_codes(number).tolist(), store.codes(number).tolist()))
        else:
            found.append(("text", *texts))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files, by name relative to the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def index_bytes(prefix: Path) -> dict[str, bytes]:
    """Bytes of .bin, .idx and .weights.npy."""
    paths = {ending: Path(f"{prefix}.{ending}") for ending in ("bin", "idx", "weights.npy")}
    return {ending: path.read_bytes() for ending, path in paths.items() if path.exists()}


def many_lines(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Text documents."""
    rng = random.Random(seed)
    words = "red green blue black white square circle of the colour a picture showing".split()
    return [{"text": " ".join(rng.choices(words, k=rng.randint(3, 12)))} for _ in range(count)]
