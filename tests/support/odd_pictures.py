"""All the odd pictures, by the names of their files."""

from __future__ import annotations

from tests.support import odd_colours, odd_depths, odd_tiffs
from tests.support.odd_samples import Odd


def odd_pictures() -> dict[str, Odd]:
    """Name of the file -> its bytes, and what it must look like or why it is left out."""
    found = odd_depths.others() | odd_colours.profiles() | odd_colours.coded()
    for ending, pictures in (
        ("png", odd_depths.pngs() | odd_colours.pngs()), ("tif", odd_tiffs.tiffs()), ("tga", odd_depths.tgas()),
        ("bmp", odd_depths.bmps() | odd_colours.bmps()), ("ppm", odd_depths.ppms()), ("jp2", odd_depths.jpeg2000s()),
    ):  # fmt: skip
        found |= {name if "." in name else f"{name}.{ending}": odd for name, odd in pictures.items()}
    return found
