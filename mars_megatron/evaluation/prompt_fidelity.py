"""Prompt fidelity: whether a classifier recognises the label of the prompt in drawn images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from mars_megatron.evaluation.classifier import ImageClassifier, split
from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Estimate, Judged, proportion
from mars_megatron.evaluation.labels import LabelledImages, list_labelled_images, read_labelled_images
from mars_megatron.evaluation.suite import Result, check_least, write_grid
from mars_megatron.gallery.prompts import Prompt, read_prompts
from mars_megatron.model import MARSModel
from mars_megatron.model.experts import Experts
from mars_megatron.model.feed_forward import FeedForward


@dataclass(frozen=True)
class PromptFidelity:
    """Share of drawn images in which a classifier recognises the label of their prompt: of all, by group and by label.

    The classifier is trained on the given images. Its accuracy on held-out ones is reported too, for the real images
    and for their reconstructions by the image tokenizer. Intervals are for further samples of the same prompts.

    Args:
        prompts: JSONL of prompts with labels, such as {"prompt": "a red three", "label": "3", "group": "en"}.
        images: Image-text folder of real images with labels that the model has not seen.
        samples_per_prompt: Images drawn for each prompt.
        controls: Also score models that must fail: with swapped experts, and with the text experts in place of the
            visual ones.
        grid: PNG file for a contact sheet of the drawn images with their prompts.
    """

    name: ClassVar[str] = "prompt_fidelity"
    prompts: str
    images: str
    samples_per_prompt: int = 1
    controls: bool = False
    grid: str = field(default="", metadata={"written": True})

    def check(self) -> None:
        """See `Suite`."""
        check_least(self, samples_per_prompt=1)
        _, labels = list_labelled_images(self.images)
        check_prompts(read_prompts(self.prompts), set(labels))

    def run(self, context: Context) -> Result:
        """Train the classifier, draw and judge."""
        model, config, *_ = context.sampler.loaded
        if self.controls:
            expert_pairs(model)  # before anything is drawn
        train, test = split(read_labelled_images(self.images, config.image.resolution))
        classifier = ImageClassifier(train)
        scores = self._score(context, classifier)
        rebuilt = context.sampler.decode(context.sampler.image_tokenizer.encode(test.images))
        scores["classifier_accuracy/real"] = proportion(classifier.right(test))
        scores["classifier_accuracy/reconstructed"] = proportion(classifier.right(LabelledImages(rebuilt, test.labels)))
        for name, control in (("experts_swapped", swap_experts), ("visual_from_text", visual_from_text)):
            if self.controls:
                with control(model):
                    scores[f"control/{name}"] = self._score(context, classifier, name)[self.name]
        return Result(scores, {"num_samples": scores[self.name].count, "num_real": len(test.labels)})

    def _score(self, context: Context, classifier: ImageClassifier, control: str = "") -> dict[str, Estimate]:
        prompts = read_prompts(self.prompts)
        texts = [prompt.text for prompt in prompts]
        images = context.draw(texts, self.samples_per_prompt, control)
        if self.grid and not control:
            write_grid(texts, images, self.grid)
        asked = [prompt for prompt in prompts for _ in range(self.samples_per_prompt)]
        return prompt_fidelity(classifier.predict(images), asked).scores(self.name)


def check_prompts(prompts: Sequence[Prompt], labels: Collection[str]) -> None:
    """Whether a classifier that knows these labels can judge images for the prompts.

    Raises:
        ValueError: A prompt has no label, or one that the classifier has never seen.
    """
    for prompt in prompts:
        if prompt.label not in labels:
            known = ", ".join(sorted(labels))
            raise ValueError(f"prompt {prompt.text!r} has the label {prompt.label!r}; accepted: {known}")


def prompt_fidelity(predicted: Sequence[str], prompts: Sequence[Prompt]) -> Judged:
    """Compare what was recognised with what was asked for, by group and by label.

    Args:
        predicted: Label of each image.
        prompts: Prompt of each image.
    """
    assert len(predicted) == len(prompts) > 0, (len(predicted), len(prompts))
    return Judged(
        [label == prompt.label for label, prompt in zip(predicted, prompts, strict=True)],
        {"group": [prompt.group for prompt in prompts], "label": [prompt.label for prompt in prompts]},
    )


def expert_pairs(model: MARSModel) -> list[Experts | FeedForward]:
    """Every module that has a `text` and a `visual` expert; the tables of ids are no experts.

    Raises:
        ValueError: The model has no visual experts.
    """
    pairs = (module for module in model.modules() if isinstance(module, (Experts, FeedForward)))
    found = [pair for pair in pairs if "shared" not in pair.names]
    if any("visual" not in pair.names for pair in found):
        raise ValueError(
            "model.shared_experts is true: controls exchange text and visual experts, and this model has one for both"
        )
    return found


@contextmanager
def swap_experts(model: MARSModel) -> Iterator[None]:
    """Every token goes to the expert of the other modality while the context is open."""
    _swap(model)
    try:
        yield
    finally:
        _swap(model)


@contextmanager
def visual_from_text(model: MARSModel) -> Iterator[None]:
    """Visual tokens go to the text experts as well while the context is open."""
    pairs = expert_pairs(model)
    kept = [pair.visual for pair in pairs]
    try:
        for pair in pairs:
            pair.visual = pair.text
        yield
    finally:
        for pair, visual in zip(pairs, kept, strict=True):
            pair.visual = visual


def _swap(model: MARSModel) -> None:
    for pair in expert_pairs(model):
        pair.text, pair.visual = pair.visual, pair.text
