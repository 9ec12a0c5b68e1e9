"""Documents of an index back as pictures and texts: an image-text folder that shows what a model will see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mars_megatron.files.writing import staged
from mars_megatron.index.manifest import ImageTokenizerInfo, TextTokenizerInfo
from mars_megatron.index.modes import (
    KIND_INTERLEAVED,
    KIND_PAIR,
    KIND_TEXT,
    KINDS,
    MODE_LOW,
    MODE_PART_IMAGE,
    VISUAL_MODES,
    document_kind,
)
from mars_megatron.index.reader import OpenedIndex, open_index
from mars_megatron.tokenizers.image import ImageTokenizer, load_image_tokenizer
from mars_megatron.tokenizers.text import TextTokenizer, load_text_tokenizer

_CHUNK = 64  # documents decoded at once
CAPTIONS_FILE = "captions.jsonl"


@dataclass(frozen=True)
class DecodedDocument:
    """One document.

    Args:
        number: Its number in the index.
        kind: One of index.modes.KINDS.
        sequences: Its sequences in order, each a text or an image, uint8 [height, width, 3].
        modes: Of each sequence, of index.modes.
        weights: Of each sequence; None in an index without caption weights.
    """

    number: int
    kind: str
    sequences: tuple[str | np.ndarray, ...]
    modes: tuple[int, ...]
    weights: tuple[float, ...] | None

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [sequence for sequence in self.sequences if isinstance(sequence, str)]

    @property
    def images(self) -> list[np.ndarray]:
        """The images, in order; of a pair the low-resolution one comes first."""
        return [sequence for sequence in self.sequences if not isinstance(sequence, str)]


def choose_documents(prefix: str | Path, count: int, seed: int = 0) -> list[int]:
    """Numbers of `count` documents, or of all if there are fewer, drawn without replacement, in ascending order.

    Raises:
        ValueError: The count is not positive, the seed negative, or the index has no documents, is not complete, or
            damaged.
    """
    if count < 1:
        raise ValueError(f"number of samples is {count}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0")
    total = open_index(prefix).arrays.num_documents
    if not total:
        raise ValueError(f"{prefix} has no documents to decode")
    return sorted(np.random.default_rng(seed).choice(total, min(count, total), replace=False).tolist())


def decode_documents(
    prefix: str | Path,
    documents: Sequence[int],
    *,
    text_tokenizer: str | Path | None = None,
    image_tokenizer: str | Path | None = None,
    device: str = "cpu",
) -> Iterator[DecodedDocument]:
    """Decode documents, some at a time. The image tokenizer is only looked for where one of them has an image.

    Args:
        prefix: The index.
        documents: Their numbers.
        text_tokenizer: Where the text tokenizer lies now; None: where it lay when the index was made.
        image_tokenizer: The same of the image tokenizer.
        device: Where images are decoded.

    Raises:
        ValueError: A tokenizer is not there, or not the one with which the index was made; a document does not exist;
            the index is not complete, or damaged.
    """
    index = open_index(prefix)
    total = index.arrays.num_documents
    for document in documents:
        if not 0 <= document < total:
            numbers = f"the documents 0 to {total - 1}" if total else "no documents"
            raise ValueError(f"document is {document}; {prefix} has {numbers}")
    text = _open_text_tokenizer(index, text_tokenizer)
    image: ImageTokenizer | None = None
    for begin in range(0, len(documents), _CHUNK):
        chunk = [_read(index, document) for document in documents[begin : begin + _CHUNK]]
        if image is None and any(mode in VISUAL_MODES for document in chunk for mode, _ in document):
            image = _open_image_tokenizer(index, image_tokenizer, device)
        pictures = _decode_images(index, chunk, image) if image is not None else {}
        for row, (number, sequences) in enumerate(zip(documents[begin:], chunk, strict=False)):
            decoded: list[str | np.ndarray] = []
            for column, (mode, tokens) in enumerate(sequences):
                is_image = mode in VISUAL_MODES
                decoded.append(pictures[row, column] if is_image else text.decode(tokens.tolist()))
            modes = tuple(mode for mode, _ in sequences)
            first, end = index.arrays.boundaries[number : number + 2].tolist()
            kind = document_kind(np.array(modes, dtype=np.int8))
            weights = None if index.weights is None else tuple(index.weights[first:end].tolist())
            yield DecodedDocument(number, KINDS[kind], tuple(decoded), modes, weights)


def write_folder(
    decoded: Iterator[DecodedDocument], folder: str | Path, *, total: int | None = None, progress: bool = True
) -> Iterator[DecodedDocument]:
    """Write documents as an image-text folder that `tools/index_data.py build` reads, and pass them on.

    Pictures are NUMBER.png, of pairs also NUMBER.low.png, of interleaved documents NUMBER.PART.png; NUMBER is that of
    the document. The folder gets its name when the last document has been taken.

    Raises:
        ValueError: The folder exists and is not empty.
    """
    with (
        staged(Path(folder), durable=False) as temporary,
        (temporary / CAPTIONS_FILE).open("w", encoding="utf-8") as lines,
    ):
        for document in tqdm(decoded, desc="decode", unit="document", total=total, disable=not progress):
            line = _write_document(document, temporary)
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield document


def _write_document(document: DecodedDocument, folder: Path) -> dict[str, Any]:
    """Write the pictures of a document; its line in captions.jsonl."""
    key = f"{document.number:08d}"

    def save(image: str | np.ndarray, name: str) -> str:
        assert not isinstance(image, str)
        Image.fromarray(image).save(folder / name)
        return name

    if document.kind == KINDS[KIND_TEXT]:
        return {"text": document.texts[0]}
    if document.kind == KINDS[KIND_INTERLEAVED]:
        parts: list[Any] = []
        for number, (mode, part) in enumerate(zip(document.modes, document.sequences, strict=True)):
            parts.append({"image": save(part, f"{key}.{number}.png")} if mode == MODE_PART_IMAGE else part)
        return {"parts": parts}
    captions: list[Any] = document.texts
    if document.weights is not None:
        captions = [{"text": text, "weight": weight} for text, weight in zip(captions, document.weights, strict=False)]
    line = {"image": save(document.sequences[-1], f"{key}.png")}
    if document.kind == KINDS[KIND_PAIR]:
        line["low"] = save(document.sequences[document.modes.index(MODE_LOW)], f"{key}.low.png")
    return {**line, "captions": captions}


def _read(index: OpenedIndex, document: int) -> list[tuple[int, np.ndarray]]:
    """(mode, tokens) of a document, whose ids are those of the tokenizers."""
    manifest = index.manifest
    codebook = manifest.image_tokenizer.codebook_size if manifest.image_tokenizer else 0
    sequences = index.sequences(document)
    for mode, tokens in sequences:
        limit = codebook if mode in VISUAL_MODES else manifest.text_tokenizer.size
        if len(tokens) == 0 or tokens.min() < 0 or tokens.max() >= limit:
            raise ValueError(
                f"document {document} of {index.prefix} has ids outside of 0..{limit - 1}; "
                f"`tools/index_data.py validate {index.prefix}` lists everything"
            )
    return sequences


def _decode_images(
    index: OpenedIndex, chunk: list[list[tuple[int, np.ndarray]]], tokenizer: ImageTokenizer
) -> dict[tuple[int, int], np.ndarray]:
    """Pictures uint8 [height, width, 3] by (document of the chunk, sequence of the document); one batch per size."""
    info = index.manifest.image_tokenizer
    assert info is not None
    pictures: dict[tuple[int, int], np.ndarray] = {}
    for is_low, grid in ((False, info.grid), (True, info.low_grid)):
        found = {
            (row, column): tokens
            for row, document in enumerate(chunk)
            for column, (mode, tokens) in enumerate(document)
            if mode in VISUAL_MODES and (mode == MODE_LOW) == is_low
        }
        if not found:
            continue
        sizes = {len(tokens) for tokens in found.values()}
        if grid is None or sizes != {grid[0] * grid[1]}:
            raise ValueError(
                f"{index.prefix} has images of {sorted(sizes)} codes, its manifest says a grid of {grid}; "
                f"`tools/index_data.py validate {index.prefix}` lists everything"
            )
        images = tokenizer.decode(torch.from_numpy(np.stack(list(found.values()))), grid)
        pictures.update(zip(found, images.numpy(), strict=True))
    return pictures


def _open_text_tokenizer(index: OpenedIndex, path: str | Path | None) -> TextTokenizer:
    info = index.manifest.text_tokenizer
    tokenizer = load_text_tokenizer(_place(index, "text", info.path, path))
    _check_fingerprint(index, "text", tokenizer, info)
    return tokenizer


def _open_image_tokenizer(index: OpenedIndex, path: str | Path | None, device: str) -> ImageTokenizer:
    info = index.manifest.image_tokenizer
    if info is None:
        raise ValueError(f"{index.prefix} has images, its manifest names no image tokenizer")
    tokenizer = load_image_tokenizer(_place(index, "image", info.path, path), device)
    _check_fingerprint(index, "image", tokenizer, info)
    return tokenizer


def _place(index: OpenedIndex, name: str, said: str, given: str | Path | None) -> str | Path:
    if given is None and not Path(said).exists():
        raise ValueError(
            f"the {name} tokenizer of {index.prefix} is not where it was, {said}; give it with --{name}-tokenizer"
        )
    return said if given is None else given


def _check_fingerprint(
    index: OpenedIndex,
    name: str,
    tokenizer: TextTokenizer | ImageTokenizer,
    said: TextTokenizerInfo | ImageTokenizerInfo,
) -> None:
    if tokenizer.fingerprint != said.fingerprint:
        raise ValueError(
            f"{name} tokenizer {tokenizer.path} is not that of {index.prefix}: its fingerprint is "
            f"{tokenizer.fingerprint}, the manifest says {said.fingerprint}; give the right one with --{name}-tokenizer"
        )
