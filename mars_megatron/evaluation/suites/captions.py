"""Caption accuracy: whether captions name what is in real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mars_megatron.evaluation.suite import Context, Result


@dataclass(frozen=True)
class Captions:
    """Share of real images whose caption, written greedily, names their label: of all and by label.

    Args:
        images: Image-text folder of real images with labels that the model has not seen.
        label_words: JSON of the words of each label, such as {"3": ["three", "三"]}.
        max_captions: Most images captioned, spread evenly over the folder; 0 for all.
    """

    name: ClassVar[str] = "captions"
    images: str
    label_words: str
    max_captions: int = 0

    def check(self) -> None:
        """Look at the options and the files that they name.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        from mars_megatron.evaluation.captions import check_words
        from mars_megatron.evaluation.labels import LabelWords, list_labelled_images

        if self.max_captions < 0:
            raise ValueError(f"max_captions is {self.max_captions}; accepted: 0 or more")
        _, labels = list_labelled_images(self.images)
        check_words(set(labels), LabelWords.read(self.label_words))

    def run(self, context: Context) -> Result:
        """Caption and judge."""
        from dataclasses import replace

        from mars_megatron.evaluation.captions import caption_accuracy
        from mars_megatron.evaluation.labels import LabelWords, read_labelled_images
        from mars_megatron.evaluation.suite import Result
        from mars_megatron.evaluation.texts import spread

        config = context.sampler.loaded.config
        real = read_labelled_images(self.images, config.image.resolution)
        chosen = real.take(spread(range(len(real.labels)), self.max_captions))
        greedy = replace(config.generation, temperature=0.0)
        captions = context.compute(
            "captions", len(chosen.labels), lambda numbers: context.sampler.caption(chosen.images[numbers], greedy)
        )
        judged = caption_accuracy(captions, chosen.labels, LabelWords.read(self.label_words))
        return Result(judged.scores("caption_accuracy"), {"num_captions": len(captions)})
