"""A contact sheet: one row of images per prompt, with the prompt beside it in whatever language."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Where Linux distributions put fonts with Chinese, Japanese and Korean glyphs.
_SYSTEM_FONTS = Path("/usr/share/fonts")
_SYSTEM_PATTERNS = (
    "NotoSansCJK*.ttc",
    "NotoSansSC*",
    "NotoSansCJK*.otf",
    "SourceHan*",
    "wqy-*.ttc",
    "DroidSansFallback*",
)
_UNASSIGNED = "\U0010ffff"  # no font has it, so it shows what a font draws for a missing character

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MIN_CELL = 64  # pixels; smaller images are enlarged by a whole factor
TEXT_WIDTH = 360  # pixels; longer prompts are broken into lines
FONT_SIZE = 18
MARGIN = 8
_WORDS = re.compile(r"\s+|[⺀-￿]|[^\s⺀-￿]+")  # Chinese breaks between any two characters


@cache
def load_font(size: int) -> Font:
    """The first of: the font of the zhplot package, a system font with Chinese glyphs, Pillow's own (Latin only)."""
    for path in _candidates():
        return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def can_draw(font: Font, text: str) -> bool:
    """Whether the font has every character of the text."""
    missing = _glyph(font, _UNASSIGNED)
    return all(character.isspace() or _glyph(font, character) != missing for character in set(text))


def _candidates() -> Iterator[Path]:
    # The package is only looked up: importing it would import matplotlib.
    package = importlib.util.find_spec("zhplot")
    for folder in (package.submodule_search_locations or ()) if package else ():
        yield from sorted(Path(folder, "fonts").glob("*.ttf"))
    for pattern in _SYSTEM_PATTERNS:
        yield from sorted(_SYSTEM_FONTS.rglob(pattern))


def _glyph(font: Font, character: str) -> bytes | None:
    try:
        return bytes(font.getmask(character))
    except UnicodeEncodeError:  # a bitmap font, of Latin-1 alone
        return None


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
