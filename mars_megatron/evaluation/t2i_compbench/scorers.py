"""What scores images: the benchmark's ways, and a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mars_megatron.evaluation.clip_similarity import ClipSimilarity
from mars_megatron.evaluation.t2i_compbench.detection import CountScorer, DepthScorer, SpatialScorer
from mars_megatron.evaluation.t2i_compbench.detector import Detector
from mars_megatron.evaluation.t2i_compbench.prompt_files import ATTRIBUTES, COUNT, DEPTH, SPATIAL, WHOLE
from mars_megatron.evaluation.t2i_compbench.scenes import PREFIX, SceneScorer, check_scenes
from mars_megatron.evaluation.t2i_compbench.vqa import AttributeScorer
from mars_megatron.config.user_code import is_attribute, load_attribute

ACCEPTED = f"auto, none, {PREFIX}FOLDER, module:attribute, file.py:attribute"


class Scorer(Protocol):
    """Scores images by what their prompts ask for."""

    name: str

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> Sequence[float]:
        """uint8 [N, height, width, 3] on the CPU and the prompt of each -> N scores, the higher the better."""

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What limits the scores of these prompts: plain numbers, strings and lists of them."""


class WholeScorer:
    """Cosine of image and prompt in a CLIP model (the benchmark's score of relations that are not spatial)."""

    name = "clip"

    def __init__(self, clip: ClipSimilarity) -> None:
        self._clip = clip

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        return {"num_prompts_cut": self._clip.too_long(prompts)}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        return self._clip(images, prompts)


class UserScorer:
    """A user's function, or class without arguments, that is called with images and prompts as a `Scorer` is.

    Args:
        attribute: module:attribute or file.py:attribute.

    Raises:
        ValueError: There is none.
    """

    def __init__(self, attribute: str) -> None:
        if not is_attribute(attribute):
            raise ValueError(f"scorer is {attribute!r}; accepted: {ACCEPTED}")
        found = load_attribute("scorer", attribute)
        self.name = attribute.rpartition(":")[2]
        self._score: Callable[[torch.Tensor, Sequence[str]], Sequence[float]]
        self._score = found() if isinstance(found, type) else found
        if not callable(self._score):
            raise ValueError(f"scorer {attribute} cannot be called; give a function of images and prompts")

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        return {}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        scores = [float(score) for score in self._score(images, prompts)]
        if len(scores) != len(prompts):
            raise ValueError(f"scorer {self.name} gave {len(scores)} scores for {len(prompts)} images")
        return scores


def check_own_scorer(name: str, prompts: Sequence[str]) -> None:
    """Whether `own_scorer` can be made, and can score these prompts.

    Raises:
        ValueError: It cannot.
    """
    if name.startswith(PREFIX):
        check_scenes(name.removeprefix(PREFIX), prompts)
    else:
        UserScorer(name)


def own_scorer(name: str) -> Scorer:
    """A scorer that takes all prompts, whatever their category."""
    return SceneScorer(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else UserScorer(name)


@dataclass(frozen=True)
class Judges:
    """Names of the models that score, as transformers folders or names on the Hugging Face hub.

    Args:
        vqa: For attributes.
        detector: For relations in the plane and numbers.
        clip: For whole prompts.
        depth: For relations in depth, with the detector.
        detector_threshold: Least confidence of an object.
        batch_size: Images or questions in one forward pass.
    """

    vqa: str
    detector: str
    clip: str
    depth: str
    detector_threshold: float
    batch_size: int

    def needed(self, part: str) -> dict[str, str]:
        """Model by option of a way to score."""
        options = {
            ATTRIBUTES: ("vqa",),
            SPATIAL: ("detector",),
            COUNT: ("detector",),
            DEPTH: ("detector", "depth"),
            WHOLE: ("clip",),
        }
        return {option: getattr(self, option) for option in options[part]}

    def scorer(self, part: str, device: torch.device) -> Scorer:
        """The scorer of a way to score.

        Raises:
            ValueError: A model cannot be opened.
        """
        if part == ATTRIBUTES:
            return AttributeScorer(self.vqa, device, self.batch_size)
        if part == WHOLE:
            return WholeScorer(ClipSimilarity("clip", self.clip, device, self.batch_size))
        detector = Detector(self.detector, device, self.detector_threshold, self.batch_size)
        if part == DEPTH:
            return DepthScorer(detector, self.depth, device)
        return SpatialScorer(detector) if part == SPATIAL else CountScorer(detector)
