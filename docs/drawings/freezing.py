"""Where the gradient goes in a sample of each task, the text expert frozen."""

from __future__ import annotations

from pathlib import Path

from style import TEXT, VISUAL, arrow, canvas, cell, label, save

WIDTH, LEFT = 0.62, 1.75
RED = "#c0392b"


def sample(axes, y: float, name: str, tokens: list[tuple[str, str]], loss_from: int, note: str) -> None:
    """A row of tokens, a bar above those that are targets, and how the gradient runs."""
    label(axes, 0.1, y + 0.18, name, 9, ha="left")
    for number, (text, colour) in enumerate(tokens):
        cell(axes, LEFT + WIDTH * number, y, WIDTH, text, colour)
    left, right = LEFT + WIDTH * loss_from + 0.05, LEFT + WIDTH * len(tokens) - 0.05
    axes.plot((left, right), (y + 0.45, y + 0.45), color=RED, linewidth=1.6)
    label(axes, (left + right) / 2, y + 0.6, "loss", 8.5, color=RED)
    label(axes, LEFT + WIDTH * len(tokens) + 0.25, y + 0.18, note, 8.5, ha="left")


def draw(folder: Path) -> None:
    axes = canvas(11.9, 3.0)
    words = [(word, TEXT) for word in ("a", "red", "square")]
    image = [(token, VISUAL) for token in ("BOI", "c1", "c2", "c3", "c4", "EOI")]
    sample(
        *(axes, 1.95, "text to image", words + image, 4),
        "nothing trained lies before a text token:\nthe text rows need no backward pass",
    )
    sample(
        *(axes, 0.55, "image to text", [*image, *words, ("EOS", TEXT)], 6),
        "an image lies before the text:\nthe gradient goes through frozen text\nexperts into visual ones",
    )
    arrow(axes, (LEFT + WIDTH * 8.9, 1.82), (LEFT + WIDTH * 3.1, 1.82), color=RED)
    label(axes, LEFT + WIDTH * 1.5, 1.82, "no gradient", 8)
    arrow(axes, (LEFT + WIDTH * 9.9, 0.42), (LEFT + WIDTH * 0.1, 0.42), color=RED)
    label(axes, LEFT + WIDTH * 5, 0.22, "gradient", 8, color=RED)
    save(axes, folder, "freezing")
