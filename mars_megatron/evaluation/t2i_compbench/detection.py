"""Relations and numbers of objects, scored by a detector of transformers.

Shares of the image stand for the benchmark's pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mars_megatron.evaluation.pretrained import load_pretrained, load_processor, model_type
from mars_megatron.evaluation.t2i_compbench.phrases import find_counts, find_relation, singular

Box = tuple[float, float, float, float]  # left, upper, right and lower edge, in shares of the image

# In this order: "on top of" is in "on the top of"'s place, not in its text.
RELATIONS = (
    "on the left of",
    "on the right of",
    "on the top of",
    "on the bottom of",
    "on top of",
    "on bottom of",
    "on side of",
    "next to",
    "near",
)
DEPTH_RELATIONS = ("in front of", "behind", "hidden by")
_BESIDE = ("on side of", "next to", "near")
_MAX_OVERLAP = 0.1  # intersection over union from which two objects count less and less as apart
_NEAR = 150 / 480  # the benchmark's 150 pixels in its 480 x 480
_FULL_OVERLAP = 0.5  # from which one object counts wholly as before the other
OPEN = ("owlvit", "owlv2")  # model_type of detectors that are told what to look for
PERSONS = frozenset("girl boy man woman child".split())  # detectors say person, and so does the benchmark
OTHER_NAMES = {"sofa": "couch", "television": "tv", "phone": "cell phone", "ship": "boat", "painting": "picture",
               "goldfish": "fish", "desk": "table", "table": "dining table", "bag": "handbag"}  # fmt: skip
LEAST = 0.5  # a lower score of a relation in the plane is 0: both objects must be there
_SAME = 0.9  # boxes of one name that overlap so far are one object


@dataclass(frozen=True)
class Found:
    """An object in an image.

    Args:
        name: What it was asked for as.
        score: Confidence in 0..1.
        box: Left, upper, right and lower edge, in shares of the image's width and height.
    """

    name: str
    score: float
    box: Box


class Detector:
    """Finds named objects.

    Args:
        name: A transformers object detector with classes (DETR, YOLOS, ...), or OWL-ViT or OWLv2, which look for any
            word.
        device: Where it runs.
        threshold: Least confidence.

    Raises:
        ValueError: It cannot be opened.
    """

    def __init__(self, name: str, device: torch.device, threshold: float) -> None:
        from transformers import (
            AutoImageProcessor,
            AutoModelForObjectDetection,
            AutoModelForZeroShotObjectDetection,
            AutoProcessor,
        )

        self._is_open = model_type("detector", name) in OPEN
        automatic = AutoModelForZeroShotObjectDetection if self._is_open else AutoModelForObjectDetection
        self._model = load_pretrained(automatic, "detector", name, device)
        self._processor = load_processor(AutoProcessor if self._is_open else AutoImageProcessor, "detector", name)
        self._device = device
        self._threshold = threshold
        classes = {} if self._is_open else self._model.config.id2label
        self._classes = {number: label.lower() for number, label in classes.items()}

    def class_of(self, name: str) -> str | None:
        """What the detector calls an object; None if it does not know it."""
        return name if self._is_open else known_name(name, self._classes.values())

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, wanted: Sequence[Sequence[str]]) -> list[list[Found]]:
        """Look for objects in one forward pass, the most certain first.

        Args:
            images: uint8 [N, height, width, 3].
            wanted: Names of the objects to look for in each image.
        """
        assert len(images) == len(wanted), (len(images), len(wanted))
        wanted = [list(dict.fromkeys(names)) for names in wanted]
        given: dict[str, Any] = {"images": list(images.numpy())}
        if self._is_open:
            given["text"] = [[f"a photo of a {name}" for name in names] or [" "] for names in wanted]
        processor = self._processor.image_processor if self._is_open else self._processor
        outputs = self._model(**self._processor(**given, return_tensors="pt").to(self._device))
        results = processor.post_process_object_detection(outputs, threshold=self._threshold)
        found: list[list[Found]] = []
        for result, names in zip(results, wanted, strict=True):
            seen = zip(*(result[part].tolist() for part in ("labels", "scores", "boxes")), strict=True)
            objects = [
                Found(name, score, tuple(box)) for label, score, box in seen for name in self._named(label, names)
            ]
            found.append(sorted(objects, key=lambda one: -one.score))
        return found

    def _named(self, label: int, names: Sequence[str]) -> list[str]:
        """Which of the wanted names a label of the detector stands for."""
        if self._is_open:
            return list(names[label : label + 1])  # queries are padded to the longest list
        return [name for name in names if self.class_of(name) == self._classes[label]]


def known_name(name: str, classes: Collection[str]) -> str | None:
    """The class that an object belongs to: its whole name, or without its first words, in the singular, or another
    word for it."""
    words = name.lower().split()
    for start in range(len(words)):
        candidate = " ".join([*words[start:-1], singular(words[-1])])
        if candidate in classes:
            return candidate
        if candidate in PERSONS and "person" in classes:
            return "person"
        if OTHER_NAMES.get(candidate) in classes:
            return OTHER_NAMES[candidate]
    return None


class SpatialScorer:
    """Half of the score for both objects' confidence, half for how they lie; below 0.5 it is 0 (the benchmark's).

    Args:
        detector: Finds the objects.
    """

    name = "detector"
    relations: tuple[str, ...] = RELATIONS

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Prompts that have no known relation (they score 0), and objects that the detector has no class for."""
        found = [find_relation(prompt, self.relations) for prompt in prompts]
        names = {name for one in found if one for name in (one[0], one[2])}
        return {"num_prompts_without_relation": found.count(None), **_without_class(names, self._detector)}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """uint8 [N, height, width, 3] and the prompt of each -> N scores in 0..1."""
        asked = [find_relation(prompt, self.relations) for prompt in prompts]
        seen = self._detector(images, [(one[0], one[2]) if one else () for one in asked])
        return [
            self._score(one[0], one[1], one[2], objects, image) if one else 0.0
            for one, objects, image in zip(asked, seen, images, strict=True)
        ]

    def _score(self, first: str, relation: str, second: str, objects: Sequence[Found], image: torch.Tensor) -> float:
        # two of one name ("a cup next to a cup") are two objects
        one = next((found for found in objects if found.name == first), None)
        other = next((found for found in objects if found.name == second and found is not one), None)
        score = sum(found.score / 4 for found in (one, other) if found)
        if one and other:
            score += self._relation(relation, one, other, image) / 2
        return self._final(score)

    def _relation(self, relation: str, first: Found, second: Found, image: torch.Tensor) -> float:
        return relation_score(relation, first.box, second.box)

    def _final(self, score: float) -> float:
        return score if score >= LEAST else 0.0


class DepthScorer(SpatialScorer):
    """The same for relations in depth, with no least score (the benchmark's).

    Args:
        detector: Finds the objects.
        name: A transformers model that estimates depth and gives larger values to what is nearer (DPT).
        device: Where it runs.

    Raises:
        ValueError: It cannot be opened.
    """

    name = "depth"
    relations = DEPTH_RELATIONS

    def __init__(self, detector: Detector, name: str, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        super().__init__(detector)
        self._model = load_pretrained(AutoModelForDepthEstimation, "depth", name, device)
        self._processor = load_processor(AutoImageProcessor, "depth", name)
        self._device = device

    @torch.no_grad()
    def _relation(self, relation: str, first: Found, second: Found, image: torch.Tensor) -> float:
        inputs = self._processor(images=image.numpy(), return_tensors="pt").to(self._device)
        (nearness,) = self._model(**inputs).predicted_depth.float().cpu()
        return depth_score(relation, first.box, second.box, nearness)

    def _final(self, score: float) -> float:
        return score


class CountScorer:
    """For each counted object half of its share for being there, half for the right number (the benchmark's).

    Args:
        detector: Finds the objects.
    """

    name = "count"

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Prompts that count nothing (they score 0), and objects that the detector has no class for."""
        counts = [find_counts(prompt) for prompt in prompts]
        names = {name for one in counts for name, _ in one}
        return {"num_prompts_without_count": counts.count([]), **_without_class(names, self._detector)}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """uint8 [N, height, width, 3] and the prompt of each -> N scores in 0..1."""
        asked = [find_counts(prompt) for prompt in prompts]
        seen = self._detector(images, [[name for name, _ in counts] for counts in asked])
        scores = []
        for counts, objects in zip(asked, seen, strict=True):
            found = [_number([one for one in objects if one.name == name]) for name, _ in counts]
            right = sum((there > 0) + (there == number) for there, (_, number) in zip(found, counts, strict=True))
            scores.append(right / (2 * len(counts)) if counts else 0.0)
        return scores


def _number(objects: Sequence[Found]) -> int:
    """Objects among boxes of one name, some of which may show the same one."""
    kept: list[Found] = []
    for one in objects:
        if all(intersection_over_union(one.box, other.box) <= _SAME for other in kept):
            kept.append(one)
    return len(kept)


def _without_class(names: Collection[str], detector: Detector) -> dict[str, list[str]]:
    return {"objects_without_class": sorted(name for name in names if detector.class_of(name) is None)}


def relation_score(relation: str, first: Box, second: Box) -> float:
    """How well the first box lies in the relation to the second, in 0..1."""
    right, down = _centre(second)[0] - _centre(first)[0], _centre(second)[1] - _centre(first)[1]
    if relation in _BESIDE:
        return 1.0 if min(abs(right), abs(down)) < _NEAR else _NEAR / max(abs(right), abs(down))
    along, across = (right, down) if relation in ("on the left of", "on the right of") else (down, right)
    if relation in ("on the right of", "on the bottom of", "on bottom of"):
        along = -along
    if along <= abs(across):
        return 0.0
    overlap = intersection_over_union(first, second)
    return 1.0 if overlap < _MAX_OVERLAP else _MAX_OVERLAP / overlap


def depth_score(relation: str, first: Box, second: Box, nearness: torch.Tensor) -> float:
    """The same of a relation in depth: the boxes must overlap, and one object be nearer than the other.

    Args:
        relation: One of `DEPTH_RELATIONS`.
        first: Of the first object.
        second: Of the second.
        nearness: [height, width], larger where the image is nearer.
    """
    ahead = _mean_within(nearness, first) - _mean_within(nearness, second)
    if (ahead if relation == "in front of" else -ahead) <= 0:
        return 0.0
    return min(intersection_over_union(first, second) / _FULL_OVERLAP, 1.0)


def intersection_over_union(first: Box, second: Box) -> float:
    """Of two boxes; 0 where both have no area."""
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0.0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0.0)
    union = _area(first) + _area(second) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _mean_within(values: torch.Tensor, box: Box) -> float:
    rows, columns = values.shape
    left, upper = min(int(max(box[0], 0.0) * columns), columns - 1), min(int(max(box[1], 0.0) * rows), rows - 1)
    right, lower = max(int(box[2] * columns), left + 1), max(int(box[3] * rows), upper + 1)
    return float(values[upper:lower, left:right].mean())
