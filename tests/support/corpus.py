"""A small index of random captions and codes, written with megatron-core's builder as tools/index_data.py does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from mars_megatron.files.hashes import file_sha256
from mars_megatron.index.manifest import ImageTokenizerInfo, Manifest, TextTokenizerInfo

TEXT_SIZE, CODEBOOK_SIZE, GRID, EOS = 60, 32, (4, 4), 1


def write_corpus(prefix: Path, num_images: int = 120, num_texts: int = 40, seed: int = 0) -> str:
    """Write an index and return its prefix. A caption's first
    token tells the codes modulo 4, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32, multimodal=True)
    tokens = {"text": 0, "visual": 0}
    for number in range(num_images + num_texts):
        kind = int(rng.integers(4))
        text = np.concatenate(([10 + kind], rng.integers(2, TEXT_SIZE, rng.integers(2, 12)))).astype(np.int32)
        builder.add_item(torch.from_numpy(text), mode=0)
        tokens["text"] += len(text)
        if number < num_images:
            codes = (rng.integers(0, CODEBOOK_SIZE // 4, GRID[0] * GRID[1]) * 4 + kind).astype(np.int32)
            builder.add_item(torch.from_numpy(codes), mode=1)
            tokens["visual"] += len(codes)
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    Manifest(
        documents={"image": num_images, "text": num_texts},
        tokens=tokens,
        sha256={ending: file_sha256(f"{prefix}.{ending}") for ending in ("bin", "idx")},
        text_tokenizer=TextTokenizerInfo(path="", fingerprint="", size=TEXT_SIZE, eos_id=EOS, bos_id=None),
        image_tokenizer=ImageTokenizerInfo(
            path="", fingerprint="", codebook_size=CODEBOOK_SIZE, grid=GRID, resolution=16
        ),
    ).write(Path(f"{prefix}.json"))
    return str(prefix)
