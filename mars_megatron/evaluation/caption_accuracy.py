"""Caption accuracy: whether captions name what is in real images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Judged
from mars_megatron.evaluation.labels import LabelWords, list_labelled_images, read_labelled_images
from mars_megatron.evaluation.suite import Result, check_least
from mars_megatron.evaluation.texts import spread


@dataclass(frozen=True)
class Captions:
    """Share of real images whose greedily sampled caption names their label: of all and by label.

    Args:
        images: Image-text folder of real images with labels that the model has not seen.
        label_words: JSON of the words of each label, such as {"3": ["three", "三"]}.
        max_captions: Largest number of images, spread evenly over the folder; 0 for all.
    """

    name: ClassVar[str] = "captions"
    images: str
    label_words: str
    max_captions: int = 0

    def check(self) -> None:
        """See `Suite`."""
        check_least(self, max_captions=0)
        _, labels = list_labelled_images(self.images)
        check_words(set(labels), LabelWords.read(self.label_words))

    def run(self, context: Context) -> Result:
        """Caption and judge."""
        config = context.sampler.loaded.config
        real = read_labelled_images(self.images, config.image.resolution)
        chosen = real.take(spread(range(len(real.labels)), self.max_captions))
        greedy = replace(config.generation, temperature=0.0)
        captions = context.compute(
            "captions", len(chosen.labels), lambda numbers: context.sampler.caption(chosen.images[numbers], greedy)
        )
        judged = caption_accuracy(captions, chosen.labels, LabelWords.read(self.label_words))
        return Result(judged.scores("caption_accuracy"), {"num_captions": len(captions)})


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
