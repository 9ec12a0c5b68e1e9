"""The picture of samples."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image, ImageFont

from mars_megatron.gallery import sheet
from mars_megatron.gallery.sheet import can_draw, image_grid, load_font

COLORS = [(255, 0, 0), (0, 160, 0), (0, 0, 255)]


def rows(*counts: int, size: int = 16) -> list[np.ndarray]:
    """A row of plain images for each prompt, each row of its own colour."""
    return [np.full((count, size, size, 3), COLORS[row], np.uint8) for row, count in enumerate(counts)]


def area(picture: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """bool [height, width]: where the picture has the colour."""
    return (np.asarray(picture) == color).all(-1)


def test_each_row_holds_its_images_beside_its_prompt() -> None:
    picture = image_grid(rows(3, 1, 2), ["one", "a second prompt", "three"])
    tops = []
    for color, count in zip(COLORS, (3, 1, 2), strict=True):
        found = area(picture, color)
        assert found.sum() == count * 64 * 64  # enlarged by 4
        ys, xs = found.nonzero()
        tops.append(ys.min())
        left = np.asarray(picture)[ys.min() : ys.max() + 1, : xs.min()]
        assert (left < 128).all(-1).sum() > 20, "no text beside the images"
    assert tops == sorted(tops) and len(set(tops)) == 3


def test_large_images_keep_their_size() -> None:
    assert area(image_grid(rows(1, size=100), ["large"]), COLORS[0]).sum() == 100 * 100


def test_long_prompts_are_broken_into_lines() -> None:
    short = image_grid(rows(1), ["word"])
    long = image_grid(rows(1), ["several words " * 20])
    assert long.height > 2 * short.height and long.width < 2 * sheet.TEXT_WIDTH
    assert area(long, COLORS[0]).sum() == 64 * 64


def test_chinese_is_drawn_where_a_font_has_it() -> None:
    font = load_font(18)
    if not can_draw(font, "一个手写数字三"):
        pytest.skip("no font with Chinese glyphs is installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_grid(rows(1), ["一个手写数字三"])


def test_a_prompt_without_a_font_becomes_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    latin = ImageFont.load_default(18)
    monkeypatch.setattr(sheet, "load_font", lambda size: latin)
    assert can_draw(latin, "a prompt, with 3 words") and not can_draw(latin, "数字三")
    with pytest.warns(UserWarning, match="no font found has the characters of prompt 2"):
        with_note = image_grid(rows(1, 1), ["one", "数字三"])
    assert np.array_equal(
        np.asarray(with_note), np.asarray(image_grid(rows(1, 1), ["one", "(prompt 2: no font for its characters)"]))
    )
