"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvaluationRequest:
    """What to score, and against what. An empty path leaves out what needs it.

    Args:
        checkpoint: A checkpoint, or the folder of a run (its latest).
        prompts: JSONL of prompts with label and group, for prompt fidelity; needs images.
        images: Image-text folder of real images with labels, which the model has not seen: the classifier learns
            from them, and they are captioned.
        label_words: JSON of the words of each label, for caption accuracy; needs images.
        base: Checkpoint of the language model that the model was made from, for text preservation.
        facts: JSONL of sentences to complete.
        samples_per_prompt: Images sampled for each prompt.
        max_captions: Most images captioned; 0 captions all.
        controls: Also score with swapped experts, and with the text experts in place of the visual ones.
        label_name: What labels are called in the report (prompt_fidelity_by_<this>).
        group_name: What groups are called in the report.
        grid: Where to write a picture of samples with their prompts.
        tensor: Tensor-parallel size; None takes all ranks.
        overrides: Settings in place of the checkpoint's: ["--generation.guidance=2", ...].
        device: Where the model runs.
    """

    checkpoint: str
    prompts: str = ""
    images: str = ""
    label_words: str = ""
    base: str = ""
    facts: str = ""
    samples_per_prompt: int = 1
    max_captions: int = 0
    controls: bool = False
    label_name: str = "label"
    group_name: str = "group"
    grid: str = ""
    tensor: int | None = None
    overrides: Sequence[str] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if not (self.prompts or self.label_words or self.base or self.facts):
            raise ValueError("there is nothing to score; give prompts, label words, a base checkpoint or facts")
        if (self.prompts or self.label_words) and not self.images:
            raise ValueError("prompts and label words need a folder of real images with labels")
        if (self.controls or self.grid) and not self.prompts:
            raise ValueError("controls and a grid need prompts")
        if self.samples_per_prompt < 1:
            raise ValueError(f"samples per prompt is {self.samples_per_prompt}; accepted: 1 or more")
