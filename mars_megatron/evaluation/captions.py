"""Whether captions name what is in the image."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mars_megatron.evaluation.labels import LabelWords
from mars_megatron.evaluation.shares import Judged


def check_words(labels: Collection[str], words: LabelWords) -> None:
    """Whether every label has a word.

    Raises:
        ValueError: One has none.
    """
    without = sorted(set(labels) - set(words.labels.values()))
    if without:
        raise ValueError(f"there is no label word for {', '.join(map(repr, without))}")


def caption_accuracy(captions: Sequence[str], labels: Sequence[str], words: LabelWords) -> Judged:
    """A caption is right if its last label word is of the image's label.

    Args:
        captions: Caption of each image.
        labels: Label of each image.
        words: The words of each label.

    Raises:
        ValueError: A label has no word.
    """
    assert len(captions) == len(labels) > 0, (len(captions), len(labels))
    check_words(labels, words)
    pairs = zip(captions, labels, strict=True)
    return Judged([words.last_named(caption) == label for caption, label in pairs], {"label": labels})
