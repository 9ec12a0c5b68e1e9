"""Whether images show what their prompts asked for, in the eyes of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mars_megatron.evaluation.classifier import ImageClassifier
from mars_megatron.evaluation.shares import shares
from mars_megatron.generation.prompts import Prompt


@dataclass(frozen=True)
class Fidelity:
    """Shares of images that are recognised as what was asked for.

    Attributes:
        overall: Of all images.
        by_group: Of each group of prompts, such as a language.
        by_label: Of each label asked for.
        num_images: How many were judged.
    """

    overall: float
    by_group: dict[str, float]
    by_label: dict[str, float]
    num_images: int


def check_prompts(prompts: Sequence[Prompt], classifier: ImageClassifier) -> None:
    """Whether the classifier can judge images for these prompts.

    Raises:
        ValueError: A prompt has no label, or one that the classifier has never seen.
    """
    for prompt in prompts:
        if prompt.label not in classifier.labels:
            known = ", ".join(classifier.labels)
            raise ValueError(f"prompt {prompt.text!r} has the label {prompt.label!r}; accepted: {known}")


def prompt_fidelity(predicted: Sequence[str], prompts: Sequence[Prompt]) -> Fidelity:
    """Compare what was recognised with what was asked for.

    Args:
        predicted: Label of each image.
        prompts: Prompt of each image.
    """
    assert len(predicted) == len(prompts) > 0, (len(predicted), len(prompts))
    right = [label == prompt.label for label, prompt in zip(predicted, prompts, strict=True)]
    groups = [prompt.group for prompt in prompts]
    return Fidelity(
        overall=sum(right) / len(right),
        by_group=shares(right, groups) if any(groups) else {},
        by_label=shares(right, [prompt.label for prompt in prompts]),
        num_images=len(right),
    )
