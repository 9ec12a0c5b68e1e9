"""A picture of sampled images, one row per prompt, with the prompt beside it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mars_megatron.gallery.fonts import Font, can_draw, load_font

MIN_CELL = 64  # pixels; smaller images are enlarged by a whole factor
TEXT_WIDTH = 360  # pixels; longer prompts are broken into lines
FONT_SIZE = 18
MARGIN = 8
_WORDS = re.compile(r"\s+|[⺀-￿]|[^\s⺀-￿]+")  # Chinese breaks between any two characters


def image_grid(rows: Sequence[np.ndarray], prompts: Sequence[str]) -> Image.Image:
    """Draw the grid.

    Args:
        rows: For each prompt its images, uint8 [num, height, width, 3]; all of one size.
        prompts: As many as rows. One whose characters no font at hand has is replaced by a note, with a warning.

    Returns:
        An RGB picture.
    """
    assert len(rows) == len(prompts) > 0, (len(rows), len(prompts))
    height, width = rows[0].shape[1:3]
    scale = max(1, -(-MIN_CELL // min(height, width)))
    cell = (width * scale, height * scale)
    font = load_font(FONT_SIZE)
    texts = [_lines(_drawable(prompt, number, font), font) for number, prompt in enumerate(prompts, start=1)]
    line_height = round(FONT_SIZE * 1.4)
    heights = [max(cell[1], len(lines) * line_height) + MARGIN for lines in texts]
    left = MARGIN + max(round(font.getlength(line)) for lines in texts for line in lines) + MARGIN
    columns = max(len(images) for images in rows)
    canvas = Image.new("RGB", (left + columns * (cell[0] + MARGIN), sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    top = MARGIN
    for images, lines, row_height in zip(rows, texts, heights, strict=True):
        text_top = top + (row_height - MARGIN - len(lines) * line_height) // 2
        for number, line in enumerate(lines):
            pen.text((MARGIN, text_top + number * line_height), line, fill="black", font=font)
        image_top = top + (row_height - MARGIN - cell[1]) // 2
        for number, image in enumerate(images):
            picture = Image.fromarray(image).resize(cell, Image.Resampling.NEAREST)
            canvas.paste(picture, (left + number * (cell[0] + MARGIN), image_top))
        top += row_height
    return canvas


def _drawable(prompt: str, number: int, font: Font) -> str:
    if can_draw(font, prompt):
        return prompt
    warnings.warn(
        f"no font found has the characters of prompt {number} ({prompt!r}); install one, for instance with "
        "`pip install zhplot`",
        stacklevel=3,
    )
    return f"(prompt {number}: no font for its characters)"


def _lines(text: str, font: Font) -> list[str]:
    """Break a text into lines of at most TEXT_WIDTH; a longer word gets a line of its own."""
    lines = [""]
    for word in _WORDS.findall(text):
        if lines[-1] and font.getlength(lines[-1] + word) > TEXT_WIDTH:
            lines.append("")
        lines[-1] += word if lines[-1] else word.lstrip()
    return lines
