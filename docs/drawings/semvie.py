"""One SemVIE layer between embedding and head."""

from __future__ import annotations

from pathlib import Path

from style import INK, PLAIN, SHARED, TEXT, VISUAL, arrow, box, canvas, cell, label, legend, save

TOP, BOTTOM, HEIGHT = 2.35, 1.0, 0.95  # the two lanes


def pair(axes, x: float, width: float, text: str, visual: str) -> None:
    """The expert of each modality, one above the other."""
    box(axes, x, TOP, width, HEIGHT, text, TEXT)
    box(axes, x, BOTTOM, width, HEIGHT, visual, VISUAL)


def shared(axes, x: float, width: float, text: str, colour: str) -> None:
    """A part that both modalities go through."""
    box(axes, x, BOTTOM, width, TOP + HEIGHT - BOTTOM, text, colour)


def flow(axes, start: float, end: float) -> None:
    for lane in (TOP, BOTTOM):
        arrow(axes, (start, lane + HEIGHT / 2), (end, lane + HEIGHT / 2))


def draw(folder: Path) -> None:
    axes = canvas(12.6, 4.3)
    for number, word in enumerate(("a", "red", "square")):
        cell(axes, 0.15 + 0.55 * number, TOP + 0.3, 0.55, word, TEXT)
    for number, token in enumerate(("BOI", "c1", "c2", "…", "EOI")):
        cell(axes, 0.15 + 0.37 * number, BOTTOM + 0.3, 0.37, token, VISUAL, 7)
    label(axes, 0.15, TOP + 0.82, "one sequence of tokens", 8.5, ha="left")
    pair(axes, 2.35, 1.05, "embedding:\ntext rows", "embedding:\nimage rows")
    box(axes, 3.65, 0.75, 7.3, 2.85, "")
    label(axes, 7.3, 3.78, "SemVIE layer, repeated (MARS-7B: 32 times)", 10)
    shared(axes, 3.85, 0.5, "RMS\nnorm", SHARED)
    pair(axes, 4.62, 1.1, "text\nQ, K, V", "visual\nQ, K, V")
    shared(axes, 6.0, 1.15, "causal\nattention\nover the\nwhole\nsequence", PLAIN)
    pair(axes, 7.42, 1.1, "text\noutput\nprojection", "visual\noutput\nprojection")
    shared(axes, 8.8, 0.5, "RMS\nnorm", SHARED)
    pair(axes, 9.58, 1.15, "text\nFFN", "visual\nFFN")
    pair(axes, 11.3, 1.1, "head:\ntext rows", "head:\nimage rows")
    flow(axes, 2.02, 2.35)
    for start, end in (
        *((3.4, 3.85), (4.35, 4.62), (5.72, 6.0), (7.15, 7.42)),
        *((8.52, 8.8), (9.3, 9.58), (10.73, 11.3)),
    ):
        flow(axes, start, end)
    entries = {"text expert, frozen": TEXT, "visual expert, trained": VISUAL, "shared, frozen": SHARED}
    legend(axes, 2.35, 0.3, {**entries, "no parameters": PLAIN}, 2.2)
    label(axes, 12.45, 0.38, "residual connections are left out", 7.5, ha="right", color=INK)
    save(axes, folder, "semvie")
