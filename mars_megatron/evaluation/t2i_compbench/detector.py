"""Objects in images, found by a detector of transformers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from mars_megatron.evaluation.pretrained import load_pretrained, load_processor, model_type
from mars_megatron.evaluation.t2i_compbench.phrases import singular

OPEN = ("owlvit", "owlv2")  # model_type of detectors that are told what to look for
PERSONS = frozenset("girl boy man woman child".split())  # detectors say person, and so does the benchmark
OTHER_NAMES = {"sofa": "couch", "television": "tv", "phone": "cell phone", "ship": "boat", "painting": "picture",
               "goldfish": "fish", "desk": "table", "table": "dining table", "bag": "handbag"}  # fmt: skip


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
    box: tuple[float, float, float, float]


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
            found += self._detect_open(images[part], names) if self._is_open else self._detect(images[part], names)
        return [sorted(of_image, key=lambda one: -one.score) for of_image in found]

    @torch.no_grad()
    def _detect(self, images: torch.Tensor, wanted: Sequence[Sequence[str]]) -> list[list[Found]]:
        inputs = self._processor(images=list(images.numpy()), return_tensors="pt").to(self._device)
        results = self._processor.post_process_object_detection(self._model(**inputs), threshold=self._threshold)
        found: list[list[Found]] = []
        for result, names in zip(results, wanted, strict=True):
            by_class: dict[str | None, list[str]] = {}
            for name in names:
                by_class.setdefault(self.class_of(name), []).append(name)
            labels = [self._classes[label] for label in result["labels"].tolist()]
            seen = zip(labels, result["scores"].tolist(), result["boxes"].tolist(), strict=True)
            found.append(
                [Found(name, score, tuple(box)) for label, score, box in seen for name in by_class.get(label, [])]
            )
        return found

    @torch.no_grad()
    def _detect_open(self, images: torch.Tensor, wanted: Sequence[Sequence[str]]) -> list[list[Found]]:
        queries = [[f"a photo of a {name}" for name in names] or [" "] for names in wanted]
        inputs = self._processor(text=queries, images=list(images.numpy()), return_tensors="pt").to(self._device)
        results = self._processor.image_processor.post_process_object_detection(
            self._model(**inputs), threshold=self._threshold
        )
        found: list[list[Found]] = []
        for result, names in zip(results, wanted, strict=True):
            seen = zip(result["labels"].tolist(), result["scores"].tolist(), result["boxes"].tolist(), strict=True)
            # queries are padded to the longest list
            found.append([Found(names[label], score, tuple(box)) for label, score, box in seen if label < len(names)])
        return found


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
