"""Drawing scenes with real handwriting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from examples.compositional.scenes import COLOURS, HORIZONTAL, Scene, Thing
from examples.digits.images import load_digit_images, vary

SIDE = 32  # pixels of a canvas
DIGIT = 14  # pixels of a digit's picture
TILE = 16  # and with the margin that keeps a varied one whole


class Painter:
    """Paints canvases with one half of the handwritten digits.

    Args:
        split: "train" or "held_out", as of `load_digit_images`.
        seed: Seed of which digit is taken, and how it is varied.
        division_seed: Seed of the halves.
    """

    def __init__(self, split: str, seed: int = 0, division_seed: int = 0) -> None:
        images, digits = load_digit_images(split, DIGIT, division_seed)
        self._images = F.pad(images, [(TILE - DIGIT) // 2] * 4)
        self._of_digit = [(digits == digit).nonzero()[:, 0] for digit in range(10)]
        self._generator = torch.Generator().manual_seed(seed)

    def paint(self, scenes: Sequence[Scene]) -> torch.Tensor:
        """uint8 [len(scenes), 3, SIDE, SIDE], digits in their colours on black."""
        first = self._tiles([scene.first for scene in scenes])
        second = self._tiles([scene.second for scene in scenes])
        middle, far = (SIDE - TILE) // 2, SIDE - TILE
        canvases = torch.zeros((len(scenes), 3, SIDE, SIDE), dtype=torch.uint8)
        for canvas, scene, tiles in zip(canvases, scenes, zip(first, second, strict=True), strict=True):
            for tile, along in zip(tiles, (0, far), strict=True):
                top, left = (middle, along) if scene.relation in HORIZONTAL else (along, middle)
                canvas[:, top : top + TILE, left : left + TILE] = tile
        return canvases

    def _tiles(self, things: Sequence[Thing]) -> torch.Tensor:
        """uint8 [len(things), 3, TILE, TILE]."""
        chosen = [self._draw(self._of_digit[thing.digit]) for thing in things]
        gray = vary(self._images[torch.tensor(chosen)], self._generator, shift=0.5 / TILE)
        colours = torch.tensor([COLOURS[thing.colour] for thing in things])[:, :, None, None]
        return (gray.float() * (colours / 255)).round().to(torch.uint8)

    def _draw(self, numbers: torch.Tensor) -> int:
        return int(numbers[torch.randint(len(numbers), (), generator=self._generator)])
