"""Documents that a worker has read, on their way into flat arrays, and texts that a tokenizer can only spell as
unknown, wholly or in part. No torch is used here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter

import numpy as np

from mars_megatron.indexing.records import KEPT, Done, Sample, Skip, Usage, Where
from mars_megatron.tokenizers.text import TextTokenizer


class Batch:
    """Documents on their way into arrays."""

    def __init__(self) -> None:
        self.encoded: np.ndarray | None = None  # int32, the ids of all texts of the batch
        self.unknown, self.num_unknown = 0, (0, 0)  # the tokenizer's unknown id, and its numbers among them
        self.ids: list[list[int]] = []
        self.lengths: list[int] = []
        self.modes: list[int] = []
        self.sequences: list[int] = []
        self.weights: dict[int, float] = {}  # sequence -> weight
        self.images: list[np.ndarray] = []
        self.lows: list[np.ndarray] = []
        self.position = 0  # of the record that is being added
        self.caption_fields: set[str] = set()
        self.low_unused = False
        self.skips: list[tuple[int, Skip]] = []  # with the positions of their records
        self.usage = Usage()

    def skip(self, where: Where, reason: str, detail: str) -> None:
        self.skips.append((self.position, Skip(where, reason, detail)))

    def add_sequence(self, ids: list[int], mode: int) -> None:
        self.ids.append(ids)
        self.lengths.append(len(ids))
        self.modes.append(mode)

    def add_codes(self, num_codes: int, mode: int) -> None:
        """A sequence whose tokens come later."""
        self.lengths.append(num_codes)
        self.modes.append(mode)

    def count_files(self, found: list[Sample | Skip]) -> None:
        """Count the files of all records, which are those of a sample that is kept, or not."""
        left_out = {position for position, skip in self.skips if skip.reason not in KEPT}
        for position, item in enumerate(found):
            if item.files is not None:
                self.usage.add(item.files, position not in left_out)

    def done(self) -> Done:
        weights = None
        if self.weights:
            weights = np.ones(len(self.lengths), dtype=np.float32)
            weights[list(self.weights)] = list(self.weights.values())
        ids, num_ids = self.encoded, sum(map(len, self.ids))
        if ids is None or len(ids) != num_ids:  # some texts were left out
            ids = np.fromiter(chain.from_iterable(self.ids), np.int32, num_ids)
            if self.num_unknown[0]:
                self.num_unknown = count_unknown(ids, list(map(len, self.ids)), self.unknown)
        return Done(
            ids,
            np.array(self.lengths, dtype=np.int32),
            np.array(self.modes, dtype=np.int8),
            np.array(self.sequences, dtype=np.int64),
            weights,
            _stack(self.images),
            _stack(self.lows),
            [skip for _, skip in sorted(self.skips, key=itemgetter(0))],
            frozenset(self.caption_fields),
            self.low_unused,
            self.usage,
            self.num_unknown,
        )


def join(parts: Sequence[Done]) -> Done:
    """Several batches as one."""
    weights = None
    if any(part.weights is not None for part in parts):
        weights = np.concatenate(
            [np.ones(len(part.lengths), np.float32) if part.weights is None else part.weights for part in parts]
        )
    names = ("text_tokens", "lengths", "modes", "sequences")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    images = _stack([image for part in parts for image in part.images])
    lows = _stack([low for part in parts for low in part.lows])
    usage = Usage()
    for part in parts:
        usage.extend(part.usage)
    return Done(
        **arrays,
        weights=weights,
        images=images,
        lows=lows,
        skips=[skip for part in parts for skip in part.skips],
        caption_fields=frozenset().union(*(part.caption_fields for part in parts)),
        low_unused=any(part.low_unused for part in parts),
        usage=usage,
        unknown=(sum(part.unknown[0] for part in parts), sum(part.unknown[1] for part in parts)),
    )


def empty(skips: list[Skip]) -> Done:
    """A batch without documents."""
    batch = Batch()
    batch.skips = list(enumerate(skips))
    return batch.done()


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(images) if len(images) else np.zeros((0, 0, 0, 3), dtype=np.uint8)


class NothingKnown(list[int]):
    """The ids of a text of which the tokenizer knows nothing but the spaces."""


def mark_unknown(
    encoded: list[list[int]], tokens: np.ndarray, unknown: int, tokenizer: TextTokenizer, is_space: dict[int, bool]
) -> tuple[int, int]:
    """Make the ids of texts of which nothing is known `NothingKnown`.

    Args:
        encoded: Ids of each text; changed.
        tokens: int32 [sum of their lengths], the same one after the other.
        unknown: The tokenizer's unknown id.
        tokenizer: Has made the ids.
        is_space: What is known of ids, kept by the caller: whether they are nothing but spaces; gets what is found.

    Returns:
        As `count_unknown`.
    """

    def says_nothing(number: int) -> bool:
        if number not in is_space:
            is_space[number] = not tokenizer.decode([number]).strip()
        return number == unknown or is_space[number]

    counts = _counts(tokens, np.array(list(map(len, encoded))), unknown)
    for place in np.flatnonzero(counts).tolist():
        if all(map(says_nothing, encoded[place])):  # mostly ends at one of the first
            encoded[place] = NothingKnown(encoded[place])
    return int(np.count_nonzero(counts)), int(counts.sum())


def count_unknown(tokens: np.ndarray, lengths: Sequence[int], unknown: int) -> tuple[int, int]:
    """Texts with unknown ids, and the number of these.

    Args:
        tokens: int32 [sum of lengths], ids of the texts, one after the other.
        lengths: Ids of each text.
        unknown: The tokenizer's unknown id.
    """
    counts = _counts(tokens, np.array(lengths, dtype=np.int64), unknown)
    return int(np.count_nonzero(counts)), int(counts.sum())


def _counts(tokens: np.ndarray, lengths: np.ndarray, unknown: int) -> np.ndarray:
    """Unknown ids of each text, int64 [texts]."""
    (places,) = np.nonzero(tokens == unknown)
    return np.bincount(np.searchsorted(np.cumsum(lengths), places, side="right"), minlength=len(lengths))
