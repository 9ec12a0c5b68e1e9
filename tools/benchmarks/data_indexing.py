"""Indexing: texts against a plain loop, images against the encoder alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from benchmarks.synthetic import Captions, write_photographs
from benchmarks.timing import OURS, contest
from mars_megatron.data.store import Store
from mars_megatron.index.manifest import Manifest
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from mars_megatron.tokenizers.image import VQImageTokenizer
from mars_megatron.tokenizers.text import TextTokenizer
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from mars_megatron.tokenizers.train_text import train_text_tokenizer

TRAINING_LINES = 20_000


@dataclass(frozen=True)
class TextOptions:
    """Texts to index.

    Args:
        captions: How many.
        vocabulary: Ids of the tokenizer that is trained on some of them.
        workers: Worker processes.
        rounds: Timed runs of each contestant.
        progress: Show progress bars.
    """

    captions: int
    vocabulary: int
    workers: int
    rounds: int
    progress: bool


def measure_text(options: TextOptions, folder: Path) -> dict[str, Any]:
    """Index a JSONL file of texts, against what one would write in a few lines.

    Returns:
        captions, tokens, workers, median seconds and plain_seconds, and their ratio.

    Raises:
        RuntimeError: The two indices differ.
    """
    source, tokenizer = _texts(options, folder)

    def ours() -> None:
        build_index(source, _fresh(folder / "ours") / "index", tokenizer,
                    options=BuildOptions(workers=options.workers), progress=False)  # fmt: skip

    def plain() -> None:
        plain_loop(source, _fresh(folder / "plain") / "index", tokenizer.path)

    seconds = contest({OURS: ours, "plain": plain}, options.rounds, "index texts", options.progress)
    tokens = _compare(folder / "ours" / "index", folder / "plain" / "index", options.captions)
    return {
        "captions": options.captions,
        "tokens": tokens,
        "workers": options.workers,
        "seconds": seconds[OURS],
        "plain_seconds": seconds["plain"],
        "captions_per_second": options.captions / seconds[OURS],
        "ratio": seconds["plain"] / seconds[OURS],
    }


def plain_loop(source: Path, prefix: Path, tokenizer_path: str) -> None:
    """What a sensible person writes."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=tokenizer_path)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            ids = tokenizer.encode(json.loads(line)["text"])
            builder.add_document(ids, [len(ids)])
    builder.finalize(f"{prefix}.idx")


def _texts(options: TextOptions, folder: Path) -> tuple[Path, TextTokenizer]:
    """The JSONL file, and a tokenizer trained on its first lines."""
    source, sentences = folder / "texts.jsonl", folder / "sentences.txt"
    captions = Captions().draw(options.captions)
    first = list(islice(captions, TRAINING_LINES))
    sentences.write_text("".join(f"{line}\n" for line in first), encoding="utf-8")
    with source.open("w", encoding="utf-8") as lines:
        for caption in chain(first, captions):
            lines.write(json.dumps({"text": caption}, ensure_ascii=False) + "\n")
    tokenizer = train_text_tokenizer(
        sentences, folder / "text.model", vocab_size=options.vocabulary, character_coverage=0.9995, at_most=True
    )
    return source, tokenizer


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _compare(ours: Path, plain: Path, captions: int) -> int:
    """Number of tokens, which both must have alike."""
    store = Store(ours)
    if store.num_documents != captions:
        raise RuntimeError(f"{captions} captions became {store.num_documents} documents")
    other = IndexedDataset(str(plain))  # unmaps its arrays when it goes
    same = np.array_equal(np.fromfile(f"{ours}.bin", np.int32), np.fromfile(f"{plain}.bin", np.int32))
    if not same or not np.array_equal(store.lengths, other.sequence_lengths):
        raise RuntimeError("the index and that of the plain loop differ")
    return int(store.lengths.sum(dtype=np.int64))


@dataclass(frozen=True)
class ImagesOptions:
    """Images to index.

    Args:
        images: How many JPEG files.
        size: Their width and height.
        resolution: Side that they are brought to.
        widths: Channels of the VQModel at each resolution.
        codebook_size: Its codes.
        code_dim: Channels of a code.
        layers: Residual layers at each resolution.
        norm_groups: Groups of its group norms.
        batch_size: Images encoded at once.
        workers: Worker processes.
        rounds: Timed runs of each contestant.
        progress: Show progress bars.
    """

    images: int
    size: tuple[int, int]
    resolution: int
    widths: tuple[int, ...]
    codebook_size: int
    code_dim: int
    layers: int
    norm_groups: int
    batch_size: int
    workers: int
    rounds: int
    progress: bool


def measure_images(options: ImagesOptions, folder: Path) -> dict[str, Any]:
    """Index JPEG files, against encoding their pixels, ready in memory, in the same batches.

    Returns:
        images, median seconds and encoder_seconds, images_per_second and encoder_images_per_second, and their ratio.

    Raises:
        RuntimeError: The codes differ.
    """
    source = folder / "photographs.tar"
    write_photographs(source, options.images, options.size)
    text = train_text_tokenizer(_sentences(folder), folder / "text.model", vocab_size=1000, at_most=True)
    image = _image_tokenizer(options, folder / "vq")
    build = BuildOptions(resolution=options.resolution, batch_size=options.batch_size, workers=options.workers)
    pixels = _pixels(source, options)
    expected: list[torch.Tensor] = []

    def ours() -> Manifest | None:
        return build_index(source, _fresh(folder / "ours") / "index", text, image, options=build, progress=False)

    def encoder() -> None:
        expected[:] = [image.encode(pixels, batch_size=options.batch_size)]

    calls: dict[str, Callable[[], object]] = {OURS: ours, "encoder": encoder}
    seconds = contest(calls, options.rounds, "index images", options.progress)
    store = Store(folder / "ours" / "index")
    codes = np.stack([store.codes(document) for document in range(store.num_documents)])
    if not np.array_equal(codes, expected[0].numpy()):
        raise RuntimeError("the index has other codes than the encoder alone gives")
    return {
        "images": options.images,
        "workers": options.workers,
        "batch_size": options.batch_size,
        "widths": list(options.widths),
        "seconds": seconds[OURS],
        "encoder_seconds": seconds["encoder"],
        "images_per_second": options.images / seconds[OURS],
        "encoder_images_per_second": options.images / seconds["encoder"],
        "ratio": seconds["encoder"] / seconds[OURS],
    }


def _sentences(folder: Path) -> Path:
    path = folder / "sentences.txt"
    path.write_text("".join(f"{line}\n" for line in Captions(num_words=500).draw(1000)), encoding="utf-8")
    return path


def _image_tokenizer(options: ImagesOptions, folder: Path) -> VQImageTokenizer:
    """A VQModel of random weights."""
    torch.manual_seed(0)
    shape = ImageTrainingConfig(
        codebook_size=options.codebook_size,
        code_dim=options.code_dim,
        widths=options.widths,
        layers_per_block=options.layers,
        norm_groups=options.norm_groups,
    )
    model = make_model(shape)
    model.save_pretrained(folder)
    return VQImageTokenizer(model, folder)


def _pixels(source: Path, options: ImagesOptions) -> torch.Tensor:
    """uint8 [N, 3, resolution, resolution], as indexing reads them."""
    import tarfile

    with tarfile.open(source) as archive:
        files = [archive.extractfile(name) for name in archive.getnames() if name.endswith(".jpg")]
        raw = [file.read() for file in files if file is not None]
    images = [read_pixels(contents, [options.resolution], "crop", ImageLimits())[0] for contents in raw]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
