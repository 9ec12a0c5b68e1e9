"""How far boxes lie as a relation says. Shares of the image stand for the benchmark's pixels."""

from __future__ import annotations

import torch

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
