"""Whether captions name what is in the image."""

from __future__ import annotations

from collections.abc import Sequence

from mars_megatron.evaluation.labels import LabelWords


def caption_accuracy(captions: Sequence[str], labels: Sequence[str], words: LabelWords) -> float:
    """Share of captions whose last label word is of the image's label.

    Args:
        captions: Caption of each image.
        labels: Label of each image.
        words: The words of each label.

    Raises:
        ValueError: A label has no word.
    """
    assert len(captions) == len(labels) > 0, (len(captions), len(labels))
    without = sorted(set(labels) - set(words.labels.values()))
    if without:
        raise ValueError(f"there is no label word for {', '.join(map(repr, without))}")
    pairs = zip(captions, labels, strict=True)
    return sum(words.last_named(caption) == label for caption, label in pairs) / len(captions)
