"""Texts that a tokenizer can only spell as unknown, wholly or in part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mars_megatron.tokenizers.text import TextTokenizer


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
