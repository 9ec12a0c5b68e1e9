"""A padded batch beside packed micro-batches of the same samples, packed by the package itself."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from style import INK, PLAIN, TEXT, VISUAL, canvas, label, legend, save

from mars_megatron.data.packing import pack

CAPTIONS, IMAGE = (4, 11, 2, 7, 3, 16, 5), 16  # tokens
BUDGET = 84


def bar(axes, x: float, y: float, tokens: int, colour: str, unit: float = 0.058) -> float:
    """Tokens as a bar of `unit` inches each; returns where it ends."""
    hatch = "////" if colour == PLAIN else None
    axes.add_patch(Rectangle((x, y), tokens * unit, 0.24, facecolor=colour, edgecolor=INK, linewidth=0.5, hatch=hatch))
    return x + tokens * unit


def draw(folder: Path) -> None:
    axes = canvas(11.0, 3.3)
    label(axes, 0.2, 3.02, "padded to the longest sample", 9.5, ha="left")
    longest = max(CAPTIONS) + IMAGE
    for number, caption in enumerate(CAPTIONS):
        y = 2.6 - 0.3 * number
        end = bar(axes, bar(axes, 0.2, y, caption, TEXT, 0.11), y, IMAGE, VISUAL, 0.11)
        if longest > caption + IMAGE:
            bar(axes, end, y, longest - caption - IMAGE, PLAIN, 0.11)
    label(axes, 4.6, 3.02, "packed: whole samples, up to data.micro_batch_tokens", 9.5, ha="left")
    members, offsets = pack(np.array(CAPTIONS) + IMAGE, BUDGET)
    for number, (start, end) in enumerate(pairwise(offsets)):
        x, y = 4.6, 2.3 - 0.75 * number
        label(axes, x, y + 0.4, f"micro-batch {number + 1}", 8.5, ha="left")
        for sample in members[start:end]:
            x = bar(axes, bar(axes, x, y, CAPTIONS[sample], TEXT), y, IMAGE, VISUAL)
        used = sum(CAPTIONS[sample] + IMAGE for sample in members[start:end])
        if used < BUDGET:
            bar(axes, x, y, BUDGET - used, PLAIN)
    legend(axes, 4.6, 0.5, {"caption": TEXT, "image": VISUAL, "empty (hatched)": PLAIN}, 1.2)
    save(axes, folder, "packing")
