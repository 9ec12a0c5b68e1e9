"""Finds the two digits of a canvas: their places, colours and crops."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from examples.compositional.scenes import COLOURS
from mars_megatron.tokenizers.image import channels_first

CROP = 16  # pixels of a thing's picture
BACKGROUND = 0.25  # brightness below which a pixel belongs to nothing
LEAST_MASS = 5.0  # brightness, in whole pixels, that a thing has at least
PURITY = 0.75  # share of a thing's brightness that is of its colour; with less it has none
_ITERATIONS = 8


@dataclass(frozen=True)
class Found:
    """What lies on N canvases.

    Attributes:
        centres: float [N, 2, 2], y and x of both things; the first is the left or upper one.
        horizontal: bool [N], whether they lie side by side rather than one above the other.
        colours: N pairs of keys of COLOURS; None for what has no single colour, or is not there.
        crops: uint8 [N, 2, 3, CROP, CROP], each thing alone, gray, in the middle.
    """

    centres: torch.Tensor
    horizontal: torch.Tensor
    colours: list[tuple[str | None, str | None]]
    crops: torch.Tensor


def find(images: torch.Tensor) -> Found:
    """Look at canvases, uint8 [N, side, side, 3] or [N, 3, side, side]."""
    x = channels_first(images).float() / 255  # [N, 3, H, W]
    value = x.amax(1)
    value = torch.where(value < BACKGROUND, 0.0, value)
    masks, centres = _two_clusters(value)
    between = centres[:, 1] - centres[:, 0]
    horizontal = between[:, 1].abs() > between[:, 0].abs()
    along = torch.where(horizontal, between[:, 1], between[:, 0])
    swapped = along < 0
    masks = torch.where(swapped[:, None, None, None], masks.flip(1), masks)
    centres = torch.where(swapped[:, None, None], centres.flip(1), centres)
    weights = masks * value[:, None]
    return Found(centres, horizontal, _colours(x, weights), _crops(weights, centres))


def _two_clusters(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two means of the bright pixels, from both starts (left and right, top and bottom) the better.

    Args:
        value: [N, H, W].

    Returns:
        masks [N, 2, H, W] of zeros and ones, centres [N, 2, 2].
    """
    height, width = value.shape[1:]
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).float()
    best_error = torch.full((len(value),), torch.inf)
    masks = torch.zeros(len(value), 2, height, width)
    centres = torch.zeros(len(value), 2, 2)
    for start in (((0.5, 0.25), (0.5, 0.75)), ((0.25, 0.5), (0.75, 0.5))):
        middle = (torch.tensor(start) * torch.tensor([height, width])).expand(len(value), 2, 2)
        for _ in range(_ITERATIONS):
            distance = (places[None, None] - middle[:, :, None, None]).square().sum(-1)  # [N, 2, H, W]
            nearest = distance.argmin(1)
            mask = torch.stack((nearest == 0, nearest == 1), 1).float()
            weight = mask * value[:, None]
            mass = weight.sum((2, 3))
            mean = torch.einsum("nkhw,hwd->nkd", weight, places) / mass.clamp(min=1e-6)[..., None]
            # an empty cluster stays where it was
            middle = torch.where(mass[..., None] > 0, mean, middle)
        error = (distance.amin(1) * value).sum((1, 2))
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        masks = torch.where(better[:, None, None, None], mask, masks)
        centres = torch.where(better[:, None, None], middle, centres)
    return masks, centres


def _colours(x: torch.Tensor, weights: torch.Tensor) -> list[tuple[str | None, str | None]]:
    """The colour of most of a thing. x: [N, 3, H, W]; weights: brightness of each thing, [N, 2, H, W]."""
    names = list(COLOURS)
    known = torch.tensor([COLOURS[name] for name in names]).float() / 255  # [C, 3]
    hue = x / x.amax(1, keepdim=True).clamp(min=1e-6)
    nearest = (hue[:, None] - known[None, :, :, None, None]).square().sum(2).argmin(1)  # [N, H, W]
    is_colour = torch.nn.functional.one_hot(nearest, len(names)).float()  # [N, H, W, C]
    masses = torch.einsum("nkhw,nhwc->nkc", weights, is_colour)
    total = masses.sum(-1)
    most, index = masses.max(-1)
    fine = (total >= LEAST_MASS) & (most >= PURITY * total)
    rows = [
        [names[i] if ok else None for i, ok in zip(two, oks, strict=True)]
        for two, oks in zip(index.tolist(), fine.tolist(), strict=True)
    ]
    return [(first, second) for first, second in rows]


def _crops(weights: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 2, 3, CROP, CROP] around the centres."""
    num, _, height, width = weights.shape
    half = CROP // 2
    padded = torch.nn.functional.pad(weights, [half] * 4)
    start = centres.round().long()  # in padded pixels: the centre less half the crop
    window = torch.arange(CROP)
    rows = (start[..., 0, None] + window).clamp(max=height + CROP - 1)  # [N, 2, CROP]
    columns = (start[..., 1, None] + window).clamp(max=width + CROP - 1)
    n, k = torch.arange(num)[:, None, None, None], torch.arange(2)[None, :, None, None]
    gray = padded[n, k, rows[..., :, None], columns[..., None, :]]
    return (gray * 255).round().to(torch.uint8)[:, :, None].repeat(1, 1, 3, 1, 1)
