"""Prompt fidelity: whether drawn images show what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mars_megatron.evaluation.classifier import ImageClassifier
    from mars_megatron.evaluation.intervals import Estimate
    from mars_megatron.evaluation.labels import LabelledImages
    from mars_megatron.evaluation.suite import Context, Result


@dataclass(frozen=True)
class PromptFidelity:
    """Share of drawn images in which a classifier recognises the label of their prompt: of all, by group and by label.

    The classifier learns from the given images; its accuracy on a part of them that it has not seen is reported
    beside, on the real ones and on the same ones through the image tokenizer. Intervals are those of more draws for
    the same prompts.

    Args:
        prompts: JSONL of prompts with labels, such as {"prompt": "a red three", "label": "3", "group": "en"}.
        images: Image-text folder of real images with labels that the model has not seen.
        samples_per_prompt: Images drawn for each prompt.
        controls: Also score models that must fail: with swapped experts, and with the text experts in place of the
            visual ones.
        grid: PNG file for a picture of the drawn images with their prompts.
    """

    name: ClassVar[str] = "prompt_fidelity"
    prompts: str
    images: str
    samples_per_prompt: int = 1
    controls: bool = False
    grid: str = field(default="", metadata={"written": True})

    def check(self) -> None:
        """Look at the options and the files that they name.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        from mars_megatron.evaluation.labels import list_labelled_images
        from mars_megatron.evaluation.prompt_fidelity import check_prompts
        from mars_megatron.gallery.prompts import read_prompts

        if self.samples_per_prompt < 1:
            raise ValueError(f"samples_per_prompt is {self.samples_per_prompt}; accepted: 1 or more")
        _, labels = list_labelled_images(self.images)
        check_prompts(read_prompts(self.prompts), set(labels))

    def run(self, context: Context) -> Result:
        """Train the classifier, draw and judge."""
        from mars_megatron.evaluation.classifier import ImageClassifier, split
        from mars_megatron.evaluation.controls import expert_pairs, swap_experts, visual_from_text
        from mars_megatron.evaluation.labels import read_labelled_images
        from mars_megatron.evaluation.suite import Result

        model, config, *_ = context.sampler.loaded
        if self.controls:
            expert_pairs(model)  # before anything is drawn
        train, test = split(read_labelled_images(self.images, config.image.resolution))
        classifier = ImageClassifier(train)
        scores = self._score(context, classifier)
        scores |= self._classifier_accuracy(context, classifier, test)
        for name, control in (("experts_swapped", swap_experts), ("visual_from_text", visual_from_text)):
            if self.controls:
                with control(model):
                    scores[f"control/{name}"] = self._score(context, classifier, name)[self.name]
        return Result(scores, {"num_samples": scores[self.name].count, "num_real": len(test.labels)})

    def _classifier_accuracy(
        self, context: Context, classifier: ImageClassifier, test: LabelledImages
    ) -> dict[str, Estimate]:
        from mars_megatron.evaluation.intervals import proportion
        from mars_megatron.evaluation.labels import LabelledImages

        rebuilt = context.sampler.decode(context.sampler.image_tokenizer.encode(test.images))
        return {
            "classifier_accuracy/real": proportion(classifier.right(test)),
            "classifier_accuracy/reconstructed": proportion(classifier.right(LabelledImages(rebuilt, test.labels))),
        }

    def _score(self, context: Context, classifier: ImageClassifier, control: str = "") -> dict[str, Estimate]:
        from mars_megatron.evaluation.pictures import write_grid
        from mars_megatron.evaluation.prompt_fidelity import prompt_fidelity
        from mars_megatron.gallery.prompts import read_prompts

        prompts = read_prompts(self.prompts)
        texts = [prompt.text for prompt in prompts]
        images = context.draw(texts, self.samples_per_prompt, control)
        if self.grid and not control:
            write_grid(texts, images, self.grid)
        asked = [prompt for prompt in prompts for _ in range(self.samples_per_prompt)]
        return prompt_fidelity(classifier.predict(images), asked).scores(self.name)
