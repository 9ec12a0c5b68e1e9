"""From raw samples and tokenizers to an index: the library call behind tools/index_data.py."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from tqdm import tqdm

from mars_megatron.indexing.images import UNREADABLE, load_image
from mars_megatron.data.manifest import ImageTokenizerInfo, Manifest, TextTokenizerInfo
from mars_megatron.indexing.sources.folder import FolderSource, Record, SkippedLine
from mars_megatron.data.store import MODE_IMAGE, MODE_TEXT
from mars_megatron.tokenizers.image import ImageTokenizer
from mars_megatron.tokenizers.text import TextTokenizer

_ENDINGS = ("bin", "idx", "skipped.jsonl")  # the manifest follows when these are in place


class _Writer:
    """An index under construction, under temporary names until `commit`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.num_documents: Counter[str] = Counter()
        self.tokens = {"text": 0, "visual": 0}
        self.skipped: Counter[str] = Counter()
        self._log = self._temporary("skipped.jsonl").open("w", encoding="utf-8")
        self._builder = IndexedDatasetBuilder(str(self._temporary("bin")), dtype=np.int32, multimodal=True)

    def add(self, texts: list[list[int]], codes: np.ndarray | None) -> None:
        """Write one document: its texts' ids, then the codes of its image, if it has one."""
        lengths, modes = [len(text) for text in texts], [MODE_TEXT] * len(texts)
        self.tokens["text"] += sum(lengths)
        parts = [np.asarray(text, dtype=np.int32) for text in texts]
        if codes is not None:
            parts.append(codes.astype(np.int32))
            lengths.append(len(codes))
            modes.append(MODE_IMAGE)
            self.tokens["visual"] += len(codes)
        # modes are always given: without them megatron-core 0.16 fails on a multimodal index
        self._builder.add_document(np.concatenate(parts), lengths, modes)
        self.num_documents["text" if codes is None else "image"] += 1

    def skip(self, line: int, reason: str, detail: str) -> None:
        """Count and log something left out."""
        self.skipped[reason] += 1
        entry = {"line": line, "reason": reason, "detail": detail}
        self._log.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def commit(self, manifest: Manifest) -> None:
        """Put the files in place, the manifest last."""
        self._log.close()
        self._builder.finalize(str(self._temporary("idx")))
        # an older index under this prefix is no longer complete from here on
        self._final("json").unlink(missing_ok=True)
        for ending in ("bin", "idx"):
            os.replace(self._temporary(ending), self._final(ending))
        if self.skipped:
            self.keep_log()
        else:
            self._temporary("skipped.jsonl").unlink()
            self._final("skipped.jsonl").unlink(missing_ok=True)
        manifest.write(self._final("json"))

    def keep_log(self) -> None:
        """Put the log of skipped samples in place."""
        self._log.close()
        os.replace(self._temporary("skipped.jsonl"), self._final("skipped.jsonl"))

    def discard(self) -> None:
        """Remove every temporary file."""
        self._log.close()
        self._builder.data_file.close()
        for ending in (*_ENDINGS, "json"):
            self._temporary(ending).unlink(missing_ok=True)

    def _final(self, ending: str) -> Path:
        return Path(f"{self.prefix}.{ending}")

    def _temporary(self, ending: str) -> Path:
        return Path(f"{self.prefix}.{ending}.tmp")


def build_index(
    source: FolderSource,
    prefix: str | Path,
    text_tokenizer: TextTokenizer,
    image_tokenizer: ImageTokenizer | None = None,
    *,
    resolution: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> Manifest:
    """Tokenise every sample of a source and write PREFIX.bin, .idx, .json (and .skipped.jsonl).

    A sample that cannot be used (bad line, unreadable image, no caption) is left out, counted in the
    manifest by its reason and logged in PREFIX.skipped.jsonl. Files appear under their names only when
    complete, and the manifest last; after a failure no temporary file is left.

    Args:
        source: The samples, in the order in which they are written.
        prefix: Where the index goes; its folder is made. An index already there is replaced.
        text_tokenizer: For captions and texts.
        image_tokenizer: For images; not needed where the source has none.
        resolution: Height and width to which images are resized and cropped.
        batch_size: Images encoded at once.
        progress: Show a progress bar.

    Raises:
        ValueError: There are images but no image tokenizer, the resolution does not fit it, or nothing
            could be used.
    """
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; it must be at least 1")
    grid = image_tokenizer.grid(resolution) if image_tokenizer else None
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    writer = _Writer(str(prefix))
    try:
        waiting: list[tuple[Record, list[list[int]]]] = []
        for record in tqdm(source, desc="index", unit="sample", disable=not progress, mininterval=0.5):
            if isinstance(record, SkippedLine):
                writer.skip(record.line, "bad_line", record.detail)
                continue
            if record.image is not None and image_tokenizer is None:
                raise ValueError(
                    f"line {record.line} of {source.captions} has an image; give an image tokenizer (--image-tokenizer)"
                )
            texts = _encode_texts(record, text_tokenizer, writer)
            if texts:
                waiting.append((record, texts))
            if len(waiting) == batch_size:
                _flush(waiting, writer, image_tokenizer, resolution)
        _flush(waiting, writer, image_tokenizer, resolution)
        if not writer.num_documents:
            if writer.skipped:
                writer.keep_log()
            raise ValueError(
                f"nothing was indexed from {source.captions}: skipped {dict(writer.skipped) or 'no line'}"
                + (f", see {prefix}.skipped.jsonl" if writer.skipped else " (it is empty)")
            )
        manifest = _manifest(writer, source, text_tokenizer, image_tokenizer, grid, resolution)
        writer.commit(manifest)
        return manifest
    finally:
        writer.discard()


def _encode_texts(record: Record, tokenizer: TextTokenizer, writer: _Writer) -> list[list[int]]:
    """Ids of the texts that are not empty; an empty list means that the sample is left out."""
    texts = [tokenizer.encode(text) if text.strip() else [] for text in record.texts]
    kept = [text for text in texts if text]
    if not kept:
        kind = "text" if record.image is None else "caption"
        writer.skip(record.line, f"empty_{kind}", f"no {kind} that is not empty")
    elif len(kept) < len(texts):
        writer.skip(record.line, "empty_caption_dropped", f"{len(texts) - len(kept)} of {len(texts)}; sample kept")
    return kept


def _flush(
    waiting: list[tuple[Record, list[list[int]]]],
    writer: _Writer,
    tokenizer: ImageTokenizer | None,
    resolution: int,
) -> None:
    """Encode the images of the waiting samples at once and write the samples in order."""
    images: list[torch.Tensor] = []
    usable: list[tuple[list[list[int]], int | None]] = []  # texts, number of the image
    for record, texts in waiting:
        if record.image is None:
            usable.append((texts, None))
            continue
        try:
            image = load_image(record.image, resolution)
        except UNREADABLE as error:
            writer.skip(record.line, "unreadable_image", f"{record.image}: {error}")
            continue
        usable.append((texts, len(images)))
        images.append(image)
    waiting.clear()
    codes = np.zeros((0, 0), dtype=np.int64)  # [images, h * w]
    if images:
        assert tokenizer is not None
        codes = tokenizer.encode(torch.stack(images), batch_size=len(images)).numpy()
    for texts, number in usable:
        writer.add(texts, None if number is None else codes[number])


def _manifest(
    writer: _Writer,
    source: FolderSource,
    text: TextTokenizer,
    image: ImageTokenizer | None,
    grid: tuple[int, int] | None,
    resolution: int,
) -> Manifest:
    image_info = None
    if writer.num_documents["image"]:
        assert image is not None and grid is not None
        image_info = ImageTokenizerInfo(image.path, image.fingerprint, image.codebook_size, grid, resolution)
    return Manifest(
        num_image_documents=writer.num_documents["image"],
        num_text_documents=writer.num_documents["text"],
        num_documents=writer.num_documents.total(),
        tokens=writer.tokens,
        text_tokenizer=TextTokenizerInfo(text.path, text.fingerprint, text.size, text.eos_id, text.bos_id),
        image_tokenizer=image_info,
        skipped=dict(writer.skipped),
        source=str(source.folder),
    )
