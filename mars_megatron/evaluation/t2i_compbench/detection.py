"""Relations and numbers of objects, scored by a detector of transformers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mars_megatron.evaluation.pretrained import load_pretrained, load_processor, model_type
from mars_megatron.evaluation.t2i_compbench.layout import (
    DEPTH_RELATIONS,
    RELATIONS,
    Box,
    depth_score,
    intersection_over_union,
    relation_score,
)
from mars_megatron.evaluation.t2i_compbench.phrases import find_counts, find_relation, singular

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
        batch_size: Images in one forward pass.

    Raises:
        ValueError: It cannot be opened.
    """

    def __init__(self, name: str, device: torch.device, threshold: float, batch_size: int) -> None:
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
        self._batch_size = batch_size
        classes = {} if self._is_open else self._model.config.id2label
        self._classes = {number: label.lower() for number, label in classes.items()}

    def class_of(self, name: str) -> str | None:
        """What the detector calls an object; None if it does not know it."""
        return name if self._is_open else known_name(name, self._classes.values())

    def __call__(self, images: torch.Tensor, wanted: Sequence[Sequence[str]]) -> list[list[Found]]:
        """Look for objects, the most certain first.

        Args:
            images: uint8 [N, height, width, 3].
            wanted: Names of the objects to look for in each image.
        """
        assert len(images) == len(wanted), (len(images), len(wanted))
        found: list[list[Found]] = []
        for start in range(0, len(images), self._batch_size):
            part = slice(start, start + self._batch_size)
            names = [list(dict.fromkeys(names)) for names in wanted[part]]
            found += self._detect(images[part], names)
        return [sorted(of_image, key=lambda one: -one.score) for of_image in found]

    @torch.no_grad()
    def _detect(self, images: torch.Tensor, wanted: Sequence[Sequence[str]]) -> list[list[Found]]:
        given: dict[str, Any] = {"images": list(images.numpy())}
        if self._is_open:
            given["text"] = [[f"a photo of a {name}" for name in names] or [" "] for names in wanted]
        processor = self._processor.image_processor if self._is_open else self._processor
        outputs = self._model(**self._processor(**given, return_tensors="pt").to(self._device))
        results = processor.post_process_object_detection(outputs, threshold=self._threshold)
        found: list[list[Found]] = []
        for result, names in zip(results, wanted, strict=True):
            seen = zip(*(result[part].tolist() for part in ("labels", "scores", "boxes")), strict=True)
            found.append(
                [Found(name, score, tuple(box)) for label, score, box in seen for name in self._named(label, names)]
            )
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
        return {
            "num_prompts_without_relation": sum(one is None for one in found),
            "objects_without_class": sorted(name for name in names if self._detector.class_of(name) is None),
        }

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
        return {
            "num_prompts_without_count": sum(not one for one in counts),
            "objects_without_class": sorted(name for name in names if self._detector.class_of(name) is None),
        }

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
