"""Judging canvases against the scenes that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mars_megatron.evaluation.classifier import ImageClassifier
from mars_megatron.evaluation.compositional.finding import Found, find
from mars_megatron.evaluation.labels import LabelledImages
from mars_megatron.indexing.compositional.scenes import HORIZONTAL, Scene

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
