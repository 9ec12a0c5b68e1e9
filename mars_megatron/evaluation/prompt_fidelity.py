"""Whether images show what their prompts asked for, in the eyes of a classifier."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mars_megatron.evaluation.shares import Judged
from mars_megatron.gallery.prompts import Prompt


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
