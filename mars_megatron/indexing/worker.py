"""The work of a worker process: from a batch of raw records to flat arrays of token ids and pixels. No torch."""

from __future__ import annotations

import gc
import os
import signal
import threading
from dataclasses import dataclass
from itertools import chain
from multiprocessing import connection, parent_process

import numpy as np

from mars_megatron.index.modes import MODE_IMAGE, MODE_LOW, MODE_PART_IMAGE, MODE_PART_TEXT, MODE_TEXT
from mars_megatron.indexing.documents import Batch, NothingKnown, mark_unknown
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from mars_megatron.indexing.records import Done, Refused, Sample, Skip, Work
from mars_megatron.tokenizers.text import TextTokenizer, load_text_tokenizer

# Texts of more bytes than this for each token that they may have are not tokenised to find that they are too long.
BYTES_PER_TOKEN = 64


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker must know.

    Args:
        options: Of the build.
        text_tokenizer: Its path.
        num_codes: Tokens of an image; 0 without an image tokenizer.
        num_low_codes: Tokens of a low-resolution image; 0 without pairs.
    """

    options: BuildOptions
    text_tokenizer: str
    num_codes: int
    num_low_codes: int


class Worker:
    """Turns batches into `Done`; also used without a process of its own.

    Args:
        settings: See there.
        tokenizer: For captions and texts.
    """

    def __init__(self, settings: WorkerSettings, tokenizer: TextTokenizer) -> None:
        self._settings, self._options, self._tokenizer = settings, settings.options, tokenizer
        self._is_space: dict[int, bool] = {}  # ids of the tokenizer
        self._limits = ImageLimits(self._options.max_pixels, self._options.max_bytes, self._options.min_side)

    def __call__(self, work: Work) -> Done:
        """Process a batch.

        Raises:
            ValueError: There is an image, but no image tokenizer.
        """
        batch = Batch()
        found = work.samples(self._options, batch.usage.unread)
        self._process(found, batch)
        if work.counts_files:
            batch.count_files(found)
        return batch.done()

    def _process(self, found: list[Sample | Skip], batch: Batch) -> None:
        samples = self._encodable(found, batch)
        if all(sample.text is not None for _, sample in samples):
            self._add_texts(samples, batch)
            return
        for _, sample in samples:
            batch.caption_fields.update(sample.caption_fields)
            batch.low_unused |= sample.low_unused
        texts = [self._short_texts(sample) for _, sample in samples]
        ids = iter(self._encode([text for group in texts for text in group], batch))
        for (position, sample), group in zip(samples, texts, strict=True):
            encoded = [next(ids) for _ in group]
            batch.position = position
            try:
                if sample.text is not None:
                    self._check_text(sample.text, encoded[0])
                    batch.add_sequence(encoded[0], MODE_TEXT)
                    batch.sequences.append(1)
                elif sample.parts is not None:
                    self._add_parts(sample, encoded, batch)
                else:
                    self._add_image(sample, encoded, batch)
            except Refused as refused:
                batch.skip(sample.where, refused.reason, refused.detail)

    def _encodable(self, found: list[Sample | Skip], batch: Batch) -> list[tuple[int, Sample]]:
        """(position, sample) of those whose texts are Unicode; JSON can spell halves of surrogate pairs."""
        samples = []
        for position, item in enumerate(found):
            if isinstance(item, Skip):
                batch.skips.append((position, item))
            else:
                samples.append((position, item))
        alone = [sample.text for _, sample in samples]
        texts = chain.from_iterable(_texts(sample) for _, sample in samples) if None in alone else alone
        if _is_unicode(texts):
            return samples
        good = []
        for batch.position, sample in samples:
            if _is_unicode(_texts(sample)):
                good.append((batch.position, sample))
            else:
                batch.skip(sample.where, "invalid_utf8", "a text has lone surrogates")
        return good

    def _add_texts(self, samples: list[tuple[int, Sample]], batch: Batch) -> None:
        """Text documents alone, of which there can be very many."""
        texts = [str(sample.text) for _, sample in samples]
        limit = self._options.max_text_tokens
        short = texts
        if texts and _exceeds(max(texts, key=len), limit):
            short = ["" if _exceeds(text, limit) else text for text in texts]
        encoded = self._encode(short, batch)
        kept = []
        for (position, sample), text, ids in zip(samples, texts, encoded, strict=True):
            try:
                self._check_text(text, ids)
                kept.append(ids)
            except Refused as refused:
                batch.position = position
                batch.skip(sample.where, refused.reason, refused.detail)
        batch.ids = kept
        batch.lengths = list(map(len, kept))
        batch.modes = [MODE_TEXT] * len(kept)
        batch.sequences = [1] * len(kept)

    def _encode(self, texts: list[str], batch: Batch) -> list[list[int]]:
        """The ids of texts; the batch has them in one array too, where it is seen at once whether some are unknown."""
        encoded = self._tokenizer.encode_batch(texts)
        ids = batch.encoded = np.fromiter(chain.from_iterable(encoded), np.int32, sum(map(len, encoded)))
        unknown = self._tokenizer.unk_id
        if unknown is not None and (ids == unknown).any():
            batch.unknown, batch.num_unknown = (
                unknown,
                mark_unknown(encoded, ids, unknown, self._tokenizer, self._is_space),
            )
        return encoded

    def _short_texts(self, sample: Sample) -> list[str]:
        """Its texts for the tokenizer, without those that are too long by far."""
        options = self._options
        limit = options.max_caption_tokens if sample.image is not None else options.max_text_tokens
        return ["" if _exceeds(text, limit) else text for text in _texts(sample)]

    def _check_text(self, text: str, ids: list[int]) -> None:
        limit = self._options.max_text_tokens
        if _exceeds(text, limit):
            raise Refused("long_text", f"{len(text)} characters, too many for {limit} tokens")
        if not ids or text.isspace():
            raise Refused("empty_text", "no text that is not empty")
        if len(ids) > limit:
            raise Refused("long_text", f"{len(ids)} tokens, more than {limit}")
        if type(ids) is NothingKnown:
            raise Refused("unknown_text", "all of it is unknown to the text tokenizer")

    def _add_image(self, sample: Sample, encoded: list[list[int]], batch: Batch) -> None:
        self._need_tokenizer(sample)
        limit = self._options.max_caption_tokens
        not_empty = [
            (text, ids, weight)
            for (text, weight), ids in zip(sample.captions, encoded, strict=True)
            if (ids or _exceeds(text, limit)) and not text.isspace()
        ]
        short = [(ids, weight) for text, ids, weight in not_empty if len(ids) <= limit and not _exceeds(text, limit)]
        kept = [(ids, weight) for ids, weight in short if not isinstance(ids, NothingKnown)]
        if not not_empty:
            raise Refused("empty_caption", "no caption that is not empty")
        if short and not kept:
            raise Refused("unknown_caption", "all of each caption is unknown to the text tokenizer")
        if not kept:
            shortest, ids, _ = min(not_empty, key=lambda caption: len(caption[0]))
            length = f"{len(ids)} tokens" if ids else f"{len(shortest)} characters"
            raise Refused("long_caption", f"{length}, more than {limit}" + (" tokens" if not ids else ""))
        assert sample.image is not None
        resolution, low_resolution = self._options.resolution, self._options.low_resolution
        if not low_resolution or sample.low is not None:
            high, *lows = self._pixels(sample.image, [resolution])
        else:
            high, *lows = self._pixels(sample.image, [resolution, low_resolution])
        if low_resolution and sample.low is not None:
            lows = self._pixels(sample.low, [low_resolution])
        all_captions = len(sample.captions) + sample.null_captions
        dropped = (("null_caption_dropped", all_captions, len(sample.captions)),
                   ("empty_caption_dropped", len(sample.captions), len(not_empty)),
                   ("long_caption_dropped", len(not_empty), len(short)),
                   ("unknown_caption_dropped", len(short), len(kept)))  # fmt: skip
        for reason, before, after in dropped:
            if after < before:
                detail = f"{before - after} of {all_captions} captions; the sample is kept"
                batch.skip(sample.where, reason, detail)
        for ids, weight in kept:
            if weight is not None:
                batch.weights[len(batch.lengths)] = weight
            batch.add_sequence(ids, MODE_TEXT)
        for low in lows:
            batch.lows.append(low)
            batch.add_codes(self._settings.num_low_codes, MODE_LOW)
        batch.images.append(high)
        batch.add_codes(self._settings.num_codes, MODE_IMAGE)
        batch.sequences.append(len(kept) + len(lows) + 1)

    def _add_parts(self, sample: Sample, encoded: list[list[int]], batch: Batch) -> None:
        assert sample.parts is not None
        ids, unknown = iter(encoded), 0
        found: list[list[int] | np.ndarray] = []  # ids, or pixels
        for is_image, part in sample.parts:
            if is_image:
                self._need_tokenizer(sample)
                found.extend(self._pixels(part, [self._options.resolution]))
                continue
            tokens = next(ids)
            text = str(part)
            if (tokens or _exceeds(text, self._options.max_text_tokens)) and not text.isspace():
                if isinstance(tokens, NothingKnown):
                    unknown += 1
                    continue
                self._check_text(text, tokens)
                found.append(tokens)
        if not found and not unknown:
            raise Refused("empty_text", "no part that is not empty")
        if not found:
            raise Refused("unknown_text", "all of each text is unknown to the text tokenizer")
        empty = len(sample.parts) - len(found) - unknown
        for reason, number in (("empty_part_dropped", empty), ("unknown_part_dropped", unknown)):
            if number:
                batch.skip(sample.where, reason, f"{number} of {len(sample.parts)} parts; the document is kept")
        for item in found:
            if isinstance(item, list):
                batch.add_sequence(item, MODE_PART_TEXT)
            else:
                batch.images.append(item)
                batch.add_codes(self._settings.num_codes, MODE_PART_IMAGE)
        batch.sequences.append(len(found))

    def _pixels(self, raw: bytes | str, sizes: list[int]) -> list[np.ndarray]:
        return read_pixels(raw, sizes, self._options.fit, self._limits)

    def _need_tokenizer(self, sample: Sample) -> None:
        if not self._settings.num_codes:
            raise ValueError(f"{name_of(sample.where)} has an image; give an image tokenizer (--image-tokenizer)")


def name_of(where: dict[str, object]) -> str:
    """{"file": "a.jsonl", "line": 3} -> "a.jsonl line 3"."""
    parts = ((name, ", ".join(value) if isinstance(value, list) else value) for name, value in where.items())
    return " ".join(str(value) if name == "file" else f"{name} {value}" for name, value in parts)


def _texts(sample: Sample) -> list[str]:
    if sample.text is not None:
        return [sample.text]
    if sample.parts is not None:
        return [str(part) for is_image, part in sample.parts if not is_image]
    return [text for text, _ in sample.captions]


def _exceeds(text: str, limit: int) -> bool:
    """Whether a text is too long for a number of tokens by far."""
    bound = BYTES_PER_TOKEN * limit
    return 4 * len(text) > bound and len(text.encode()) > bound


def _is_unicode(texts: object) -> bool:
    try:
        "".join(texts).encode()  # type: ignore[arg-type]
    except UnicodeEncodeError:
        return False
    return True


_worker: Worker | Exception | None = None  # of this process


def start_worker(settings: WorkerSettings) -> None:
    """Make this process a worker."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.set_threshold(50_000, 20, 20)  # batches are many small objects without cycles
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = Worker(settings, load_text_tokenizer(settings.text_tokenizer))
    except Exception as error:  # an initializer that fails would pass for a worker that died
        _worker = error


def run_work(work: Work) -> Done:
    """Process a batch in a worker process."""
    if isinstance(_worker, Exception):
        raise _worker
    assert _worker is not None
    return _worker(work)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
