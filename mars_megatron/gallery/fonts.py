"""A font for the prompts, whatever their language."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

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
