"""CLIP score: how well drawn images fit their prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mars_megatron import platform
from mars_megatron.evaluation.context import Context, over_ranks
from mars_megatron.evaluation.intervals import Estimate, mean_of_groups
from mars_megatron.evaluation.pretrained import ClipSimilarity, model_type
from mars_megatron.evaluation.suite import Result, check_least
from mars_megatron.evaluation.texts import read_texts, spread


@dataclass(frozen=True)
class ClipScore:
    """CLIP score (Hessel et al. 2021, as torchmetrics has it): 100 times the cosine of image and text, at least 0.

    Args:
        prompts: File of prompts, or an image-text folder whose first captions are drawn.
        model: Folder of a transformers CLIP model, or a name on the Hugging Face hub.
        samples_per_prompt: Images drawn for each prompt.
        max_prompts: Largest number of prompts, spread evenly over all; 0 for all.
        clip_batch_size: Images in one forward pass of the CLIP model.
    """

    name: ClassVar[str] = "clip"
    prompts: str
    model: str = "openai/clip-vit-base-patch16"
    samples_per_prompt: int = 1
    max_prompts: int = 0
    clip_batch_size: int = 64

    def check(self) -> None:
        """See `Suite`."""
        check_least(self, samples_per_prompt=1, max_prompts=0, clip_batch_size=1)
        read_texts(self.prompts)
        model_type("clip: model", self.model)

    def run(self, context: Context) -> Result:
        """Draw and score."""
        clip = ClipSimilarity("clip: model", self.model, platform.device(), self.clip_batch_size)
        texts = spread(read_texts(self.prompts), self.max_prompts)
        images = context.draw(texts, self.samples_per_prompt)
        asked = [text for text in texts for _ in range(self.samples_per_prompt)]
        similarities = over_ranks(
            len(asked), lambda numbers: clip(images[numbers], [asked[number] for number in numbers])
        )
        # at least 0 as a whole, not each: torchmetrics' definition
        found = mean_of_groups([100 * value for value in similarities], self.samples_per_prompt)
        value, low, high = (max(end or 0.0, 0.0) for end in (found.value, found.low, found.high))
        # some prompts are longer than the model reads
        details = {"model": self.model, "num_images": len(asked), "num_prompts_cut": clip.too_long(texts)}
        return Result({"clip_score": Estimate(value, low, high, found.count)}, details)
