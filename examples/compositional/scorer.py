"""Scores canvases against the scenes of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from examples.compositional.benchmark import check_canvases, read_canvases, read_scene_prompts
from examples.compositional.finding import Found, find
from examples.compositional.scenes import HORIZONTAL, Scene
from mars_megatron.evaluation.classifier import ImageClassifier
from mars_megatron.evaluation.labels import LabelledImages

SCORER_CANVASES = 1000  # real ones that digits are learned from, unless told otherwise
MEASURES = ("colour", "relation", "digit", "binding", "joint")


@dataclass(frozen=True)
class Judgement:
    """What is right about one image.

    Attributes:
        colour: Its two things have the two colours asked for.
        relation: The things of these colours lie as asked for.
        digits: For each thing asked for, whether the one of its colour is its digit; where the colours are wrong, the
            one at its place.
        exchanged: Both digits asked for are there, each in the other's colour.
    """

    colour: bool
    relation: bool
    digits: tuple[bool, bool]
    exchanged: bool

    @property
    def digit(self) -> float:
        """Share of right digits."""
        return sum(self.digits) / 2

    @property
    def binding(self) -> bool:
        """Each digit is there in its own colour."""
        return self.colour and all(self.digits)

    @property
    def joint(self) -> bool:
        """Everything is right."""
        return self.binding and self.relation


class Scorer:
    """Finds the two things of a canvas by brightness and place, and reads their digits with a classifier.

    Args:
        images: Real canvases to learn the digits from, uint8 [N, 3, side, side].
        scenes: What each shows.
        seed: Seed of the classifier's variants.
    """

    def __init__(self, images: torch.Tensor, scenes: Sequence[Scene], seed: int = 0) -> None:
        assert len(images) == len(scenes) > 0
        labels = [str(thing.digit) for scene in scenes for thing in (scene.first, scene.second)]
        self._classifier = ImageClassifier(LabelledImages(find(images).crops.flatten(0, 1), labels), seed)

    def judge(self, images: torch.Tensor, scenes: Sequence[Scene]) -> list[Judgement]:
        """Compare images, uint8 [N, side, side, 3] or [N, 3, side, side], with what they should show."""
        assert len(images) == len(scenes)
        if not scenes:
            return []
        found = find(images)
        digits = self._classifier.predict(found.crops.flatten(0, 1))
        pairs = zip(digits[::2], digits[1::2], strict=True)
        return [
            _judge(found, number, pair, scene) for number, (pair, scene) in enumerate(zip(pairs, scenes, strict=True))
        ]


def _judge(found: Found, number: int, digits: tuple[str, str], scene: Scene) -> Judgement:
    asked_colours = (scene.first.colour, scene.second.colour)
    asked_digits = (str(scene.first.digit), str(scene.second.digit))
    colours = found.colours[number]
    colour = set(colours) == set(asked_colours)
    is_reversed = colour and colours != asked_colours
    if is_reversed:
        digits = digits[::-1]
    axis = bool(found.horizontal[number]) == (scene.relation in HORIZONTAL)
    right = (digits[0] == asked_digits[0], digits[1] == asked_digits[1])
    return Judgement(
        colour=colour,
        relation=colour and axis and not is_reversed,
        digits=right,
        exchanged=colour and digits == asked_digits[::-1] and asked_digits[0] != asked_digits[1],
    )


class PromptScorer:
    """Scorer of the suite t2i_compbench, by which prompts of this benchmark are scored: 1 where all is right, else 0.

    It is `examples.compositional.scorer:PromptScorer:FOLDER` there.

    Args:
        folder: That `python -m examples.compositional.build` has written; its prompts are the ones that can be scored.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._scenes = {prompt.text: prompt.scene for prompt in read_scene_prompts(folder)}
        check_canvases(folder, "train")

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(*read_canvases(self.folder, "train", SCORER_CANVASES))

    def check(self, prompts: Sequence[str]) -> None:
        """Whether these prompts can be scored.

        Raises:
            ValueError: One is none of the benchmark.
        """
        for prompt in prompts:
            if prompt not in self._scenes:
                raise ValueError(f"prompt {prompt!r} is none of those in {self.folder}; PromptScorer knows no other")

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """uint8 [N, side, side, 3] and the prompt of each -> N scores."""
        return [float(one.joint) for one in self._scorer.judge(images, [self._scenes[prompt] for prompt in prompts])]
