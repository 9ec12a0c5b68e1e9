"""What the drawings share: colours, boxes, arrows, and SVG files that are the same on every run."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

TEXT, VISUAL, SHARED, PLAIN, INK = "#bcd4ee", "#f9c99b", "#dcdcdc", "#ffffff", "#333333"


def canvas(width: float, height: float) -> Axes:
    """White axes of this size in inches, with one unit per inch and no frame."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "mars_megatron"})
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    axes.add_patch(Rectangle((0, 0), width, height, facecolor=PLAIN, edgecolor="none"))
    return axes


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = PLAIN, size: float = 9
) -> None:
    """A rounded box with its lower left corner at (x, y), and text in its middle."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=INK, linewidth=0.8)
    )
    label(axes, x + width / 2, y + height / 2, text, size)


def cell(axes: Axes, x: float, y: float, width: float, text: str, colour: str, size: float = 8) -> None:
    """One token: a square-cornered box, 0.36 high."""
    axes.add_patch(Rectangle((x, y), width, 0.36, facecolor=colour, edgecolor=INK, linewidth=0.6))
    label(axes, x + width / 2, y + 0.18, text, size)


def label(axes: Axes, x: float, y: float, text: str, size: float = 9, **options: object) -> None:
    """Text around (x, y)."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, "color": INK, **options})


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **options: object) -> None:
    """An arrow with a small head."""
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, **options}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def legend(axes: Axes, x: float, y: float, entries: dict[str, str], step: float) -> None:
    """Colours and their meanings in a row that begins at (x, y)."""
    for number, (text, colour) in enumerate(entries.items()):
        left = x + number * step
        axes.add_patch(Rectangle((left, y), 0.22, 0.16, facecolor=colour, edgecolor=INK, linewidth=0.6))
        label(axes, left + 0.3, y + 0.08, text, 8.5, ha="left")


def save(axes: Axes, folder: Path, name: str) -> None:
    """Write folder/NAME.svg."""
    axes.figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(axes.figure)
