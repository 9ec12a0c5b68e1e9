"""Next-K-token prediction: what predicts what, and which codes of an image one step gives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.patches import Rectangle
from style import INK, VISUAL, arrow, canvas, cell, label, save

from mars_megatron.config.schema import ImageConfig
from mars_megatron.sequence.code_order import code_order

K, SIDE = 4, 4
STEPS = ("#f9c99b", "#bcd4ee", "#c9e4c5", "#e5c7e8")


def grid(axes, x: float, y: float, order: Literal["raster", "regions"]) -> None:
    """The codes of an image of 4 x 4, each with the number of the step that gives it."""
    places = code_order(ImageConfig(resolution=4 * SIDE, downsample=4, next_k=K, order=order))
    steps = {int(place): number // K for number, place in enumerate(places)}
    for place, step in steps.items():
        left, bottom = x + 0.36 * (place % SIDE), y + 0.36 * (SIDE - 1 - place // SIDE)
        axes.add_patch(Rectangle((left, bottom), 0.36, 0.36, facecolor=STEPS[step], edgecolor=INK, linewidth=0.6))
        label(axes, left + 0.18, bottom + 0.18, str(step + 1), 8.5)
    label(axes, x + 0.72, y - 0.2, f"image.order: {order}", 8.5)


def draw(folder: Path) -> None:
    axes = canvas(11.4, 2.6)
    label(axes, 0.2, 2.35, "K = 4: every position predicts the token four places on", 9.5, ha="left")
    tokens = ["s1", "s2", "s3", "s4", *(f"c{number}" for number in range(1, 9))]
    for number, token in enumerate(tokens):
        cell(axes, 0.2 + 0.5 * number, 1.0, 0.5, token, "#ffffff" if token[0] == "s" else VISUAL)
    for number in range(4):
        start, end = 0.45 + 0.5 * number, 0.45 + 0.5 * (number + K)
        arrow(axes, (start, 1.38), (end, 1.4), connectionstyle="arc3,rad=-0.28", linewidth=0.7)
    label(axes, 0.2, 0.62, "s1 .. s4 are learned start slots; one forward pass gives four codes", 8.5, ha="left")
    label(axes, 6.9, 2.35, "the step that gives each code of an image", 9.5, ha="left")
    grid(axes, 7.2, 0.6, "raster")
    grid(axes, 9.5, 0.6, "regions")
    save(axes, folder, "next_k")
