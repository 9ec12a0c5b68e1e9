"""Where the tokens of two packed samples lie: the plan is made by the package itself."""

from __future__ import annotations

from pathlib import Path

import torch
from style import INK, PLAIN, TEXT, VISUAL, canvas, cell, label, save

from mars_megatron.sequence.plan import build_plan

NAMES = ("a", "red", "square", "BOI", "c1", "c2", "c3", "c4", "two", "dots", "BOI", "c1", "c2", "c3", "c4")
MODALITY = (0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1)
STARTS = (0, 8, 15)
WIDTH, LEFT = 0.6, 1.55


def draw(folder: Path) -> None:
    plan = build_plan(
        torch.tensor(MODALITY, dtype=torch.uint8), torch.tensor(STARTS, dtype=torch.int32), row_multiple=2
    )
    colours = [VISUAL if modality else TEXT for modality in MODALITY]
    axes = canvas(11.9, 3.5)
    rows = plan.sorted_to_sequence.tolist()
    sequence_y, sorted_y = 2.35, 0.95
    for token, name in enumerate(NAMES):
        cell(axes, LEFT + WIDTH * token, sequence_y, WIDTH, name, colours[token])
    for row, token in enumerate(rows):
        name, colour = (NAMES[token], colours[token]) if token >= 0 else ("–", PLAIN)
        cell(axes, LEFT + WIDTH * row, sorted_y, WIDTH, name, colour)
        if token >= 0:
            ends = (LEFT + WIDTH * (token + 0.5), LEFT + WIDTH * (row + 0.5))
            axes.plot(ends, (sequence_y, sorted_y + 0.36), color=INK, linewidth=0.5)
    for start, end, number in zip(STARTS[:-1], STARTS[1:], (1, 2), strict=True):
        left, right = LEFT + WIDTH * start + 0.05, LEFT + WIDTH * end - 0.05
        axes.plot((left, right), (2.85, 2.85), color=INK, linewidth=1)
        label(axes, (left + right) / 2, 3.02, f"sample {number}")
    label(axes, 0.1, sequence_y + 0.18, "sequence order:\nattention", 8.5, ha="left")
    label(axes, 0.1, sorted_y + 0.18, "sorted order:\nall else", 8.5, ha="left")
    middle = LEFT + WIDTH * plan.padded_text
    axes.plot((middle, middle), (0.5, sorted_y + 0.5), color=INK, linewidth=1.6)
    label(axes, LEFT + WIDTH * plan.padded_text / 2, 0.6, "rows of the text experts")
    label(axes, middle + WIDTH * plan.padded_visual / 2, 0.6, "rows of the visual experts")
    label(axes, LEFT, 0.22, "– is padding to a multiple that tensor parallelism divides", 8, ha="left")
    save(axes, folder, "routing")
