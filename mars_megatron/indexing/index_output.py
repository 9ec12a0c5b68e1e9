"""One index under construction from the results of the workers: images become codes, documents are written in order."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mars_megatron.index.manifest import ImageTokenizerInfo, Manifest, SourceInfo, TextTokenizerInfo
from mars_megatron.index.modes import MODE_LOW, MODE_PART_TEXT, MODE_TEXT
from mars_megatron.index.writer import ENDINGS, NOTHING_INDEXED, Contents, IndexWriter
from mars_megatron.indexing.account import FileAccount
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import HARMLESS, KEPT, Done, Skip
from mars_megatron.indexing.sources.inputs import InputShard
from mars_megatron.indexing.worker import name_of
from mars_megatron.tokenizers.image import ImageTokenizer
from mars_megatron.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class Recipe:
    """With what an index is made.

    Args:
        options: See there.
        text_tokenizer: For captions and texts.
        image_tokenizer: For images; None for text alone.

    Raises:
        ValueError: A resolution does not fit the image tokenizer, or one of the two is missing.
    """

    options: BuildOptions
    text_tokenizer: TextTokenizer
    image_tokenizer: ImageTokenizer | None

    def __post_init__(self) -> None:
        if self.image_tokenizer is None:
            if self.options.resolution:
                raise ValueError(f"resolution is {self.options.resolution}, but there is no image tokenizer")
            return
        self.image_tokenizer.grid(self.options.resolution)
        if self.options.low_resolution:
            self.image_tokenizer.grid(self.options.low_resolution)

    def text_info(self) -> TextTokenizerInfo:
        text = self.text_tokenizer
        return TextTokenizerInfo(
            _absolute(text.path), text.fingerprint, text.size, text.eos_id, text.bos_id, text.content
        )

    def image_info(self) -> ImageTokenizerInfo | None:
        image, options = self.image_tokenizer, self.options
        if image is None:
            return None
        low = image.grid(options.low_resolution) if options.low_resolution else None
        return ImageTokenizerInfo(
            _absolute(image.path), image.fingerprint, image.codebook_size,
            image.grid(options.resolution), options.resolution, low, options.low_resolution,
        )  # fmt: skip


class _Codes:
    """Images in, codes out, in order and always encoded in batches of the same size until the end.

    So codes do not depend on how many images a worker's batch happened to have.
    """

    def __init__(self, tokenizer: ImageTokenizer | None, batch_size: int) -> None:
        self._tokenizer, self._batch_size = tokenizer, batch_size
        self._images: deque[np.ndarray] = deque()  # uint8 [size, size, 3]
        self._codes: deque[np.ndarray] = deque()  # int32 [h * w]

    def put(self, images: np.ndarray) -> None:
        """uint8 [N, size, size, 3]."""
        self._images.extend(images)
        while len(self._images) >= self._batch_size:
            self._encode(self._batch_size)

    def flush(self) -> None:
        """Encode what is left."""
        if self._images:
            self._encode(len(self._images))

    def take(self, count: int) -> np.ndarray | None:
        """The next codes, int32 [count * h * w]; None if they are not there yet."""
        if len(self._codes) < count:
            return None
        taken = [self._codes.popleft() for _ in range(count)]
        return np.concatenate(taken) if taken else np.zeros(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._codes)

    def _encode(self, count: int) -> None:
        assert self._tokenizer is not None
        images = np.stack([self._images.popleft() for _ in range(count)])
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self._codes.extend(self._tokenizer.encode(tensor, batch_size=count).numpy().astype(np.int32))


class Output:
    """An index under construction.

    Args:
        prefix: Where it goes.
        shard: Its input.
        recipe: With what it is made.

    Raises:
        BeingWrittenError: Another process is writing this index.
    """

    def __init__(self, prefix: str, shard: InputShard, recipe: Recipe) -> None:
        self.prefix, self.shard = prefix, shard
        self.sha256 = ""  # of the input, known when it was read
        self.num_members = 0  # the same
        self.num_left_out = 0
        self._unknown = Counter[str]()
        self._recipe = recipe
        batch_size = recipe.options.batch_size
        self._images = _Codes(recipe.image_tokenizer, batch_size)
        self._lows = _Codes(recipe.image_tokenizer, batch_size)
        self._waiting: deque[Done] = deque()
        self._account = FileAccount(shard)
        with self._naming_file():
            self._writer = IndexWriter(prefix)

    @property
    def num_documents(self) -> int:
        """Documents written so far."""
        return self._writer.num_documents

    def add(self, done: Done) -> None:
        """Take the next batch.

        Raises:
            ValueError: Something was left out, and that is not allowed.
            OSError: It cannot be written; the message names the file.
        """
        self._leave_out(done.skips)
        self._account.add(done.usage)
        if done.unknown[0]:
            self._unknown.update(texts=done.unknown[0], tokens=done.unknown[1])
        if len(done.sequences):
            self._waiting.append(done)
            self._images.put(done.images)
            self._lows.put(done.lows)
            self._write()

    def finish(self, allow_empty: bool) -> Manifest:
        """Write what is left and put the index in place.

        Raises:
            ValueError: It has no document, and that is not allowed; or the input changed meanwhile.
            OSError: It cannot be written; the message names the file.
        """
        self._images.flush()
        self._lows.flush()
        self._write()
        assert not self._waiting, "images without codes"
        self._leave_out(self._account.close())
        self.shard.check_unchanged()
        if not self._writer.num_documents and not allow_empty:
            skipped = self._writer.skipped
            with self._naming_file():
                why = f"skipped {skipped}, see {self._writer.keep_log()}" if skipped else "it has no samples"
            raise ValueError(f"nothing was indexed from {self.shard.path}: {why}")
        with self._naming_file():
            return self._writer.commit(self._manifest)

    def discard(self) -> None:
        """Remove what is not complete. Must be called in the end, also after `finish`."""
        self._writer.discard()

    def _leave_out(self, skips: Iterable[Skip]) -> None:
        """Count and log what is left out, or raise where that is not allowed."""
        for skip in skips:
            if self._recipe.options.strict and skip.reason not in HARMLESS:
                raise ValueError(f"{name_of(skip.where)}: {skip.reason}: {skip.detail} (--strict)")
            with self._naming_file():
                self._writer.skip(skip.where, skip.reason, skip.detail)
            self.num_left_out += skip.reason not in KEPT | HARMLESS

    def _write(self) -> None:
        while self._waiting:
            done = self._waiting[0]
            if len(self._images) < len(done.images) or len(self._lows) < len(done.lows):
                return
            self._waiting.popleft()
            images, lows = self._images.take(len(done.images)), self._lows.take(len(done.lows))
            assert images is not None and lows is not None
            with self._naming_file():
                tokens = _interleave(done, images, lows)
                self._writer.add(tokens, done.lengths, done.modes, done.sequences, done.weights)

    def _manifest(self, contents: Contents) -> Manifest:
        shard, tokens = self.shard, contents.tokens()
        documents = contents.documents()
        source = SourceInfo(
            shard.path, shard.num_bytes, shard.modified_ns, self.sha256, sum(documents.values()), contents.skipped,
            self._account.files(), self._account.members(self.num_members), self._account.unread(),
        )  # fmt: skip
        return Manifest(
            documents=documents,
            tokens=tokens,
            text_tokenizer=self._recipe.text_info(),
            image_tokenizer=self._recipe.image_info() if tokens["visual"] else None,
            skipped=contents.skipped,
            unknown=dict(self._unknown),
            sources=(source,),
            settings=self._recipe.options.settings(),
            caption_weights=contents.has_weights,
            sha256=contents.sha256,
        )

    @contextmanager
    def _naming_file(self) -> Iterator[None]:
        """Errors of writing say what was written: those of a full disk do not by themselves."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            message = error.strerror or str(error)
            raise OSError(error.errno, f"{message}, while writing the index", self.prefix) from error


def _interleave(done: Done, images: np.ndarray, lows: np.ndarray) -> np.ndarray:
    """int32 tokens of a batch: text and codes in the order of its sequences."""
    if not len(images) and not len(lows):
        return done.text_tokens
    modes = np.repeat(done.modes, done.lengths)
    tokens = np.empty(len(modes), dtype=np.int32)
    is_text, is_low = (modes == MODE_TEXT) | (modes == MODE_PART_TEXT), modes == MODE_LOW
    tokens[is_text] = done.text_tokens
    tokens[is_low] = lows
    tokens[~is_text & ~is_low] = images
    return tokens


def remove_index(prefix: str) -> None:
    """Remove an index, its manifest first."""
    for ending in ("json", *ENDINGS, NOTHING_INDEXED):
        if os.path.exists(path := f"{prefix}.{ending}"):
            os.unlink(path)


def _absolute(path: str) -> str:
    """The manifest is read from other folders too; a name that is no path stays."""
    return os.path.abspath(path) if os.path.exists(path) else path
