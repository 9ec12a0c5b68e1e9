"""The curves of results.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from mars_megatron.files.writing import complete

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

NAMES = {
    "frozen": "SemVIE, text frozen",
    "trained": "SemVIE, text trained too",
    "frozen_copied": "SemVIE, text frozen, visual experts copied",
    "trained_copied": "SemVIE, text trained too, visual experts copied",
    "shared": "shared parameters",
    "joint_frozen": "SemVIE, text frozen, with captioning",
    "joint_shared": "shared parameters, with captioning",
}
COLOURS = dict(zip(NAMES, ("C0", "C1", "C9", "C8", "C3", "C2", "C4"), strict=True))

Curve = Callable[[str], tuple[Sequence[float], np.ndarray]]


def plot_arms(
    path: Path, arms: Sequence[str], curve: Curve, x: str, y: str, *, log: bool = False, floor: float | None = None
) -> None:
    """Draw the mean over the seeds of each arm, and each seed as a thin line.

    Args:
        path: PNG file.
        arms: Arms, of NAMES.
        curve: Gives (x values, y values [seeds, x values]) of an arm.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        log: Whether the vertical axis is logarithmic; values of zero are drawn at `floor`.
        floor: Smallest value drawn.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for arm in arms:
        places, values = curve(arm)
        values = values if floor is None else np.maximum(values, floor)
        for one in values:
            axes.plot(places, one, color=COLOURS[arm], linewidth=0.6, alpha=0.5)
        axes.plot(places, values.mean(0), color=COLOURS[arm], linewidth=2, marker="o", markersize=3, label=NAMES[arm])
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    with complete(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
