"""Images of every kind as 8-bit RGB squares."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mars_megatron.indexing.images import load_image, load_images
from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from mars_megatron.indexing.records import Refused
from tests.support.raw import image_bytes, picture


def read(data, size=8, fit="crop", **limits):
    (pixels,) = read_pixels(data, [size], fit, ImageLimits(**limits))
    assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
    return pixels


def colours(pixels):
    return sorted(set(map(tuple, pixels.reshape(-1, 3).tolist())))


def test_upright(tmp_path):
    halves = Image.new("RGB", (16, 16), (0, 0, 0))
    halves.paste((255, 255, 255), (0, 0, 8, 16))  # white on the left
    exif = halves.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: white on top
    for ending in ("png", "webp", "jpg", "tif"):
        options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(ending, {})
        image = read(image_bytes(halves, ending, exif=exif, **options), 16)
        assert image[:7].min() > 250 and image[9:].max() < 5, ending
    damaged = image_bytes(halves, "png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(damaged, 16)[:, :8].min() == 255


def test_fit():
    wide = Image.new("RGB", (32, 16), (255, 0, 0))
    wide.paste((0, 0, 255), (8, 0, 24, 16))
    data = image_bytes(wide)
    assert colours(read(data, 16)) == [(0, 0, 255)]
    stretched = read(data, 16, "stretch")
    assert stretched[:, 0].tolist() == [[255, 0, 0]] * 16 and stretched[:, 8].tolist() == [[0, 0, 255]] * 16
    noise = picture(3, (32, 20))
    pixels = np.asarray(Image.open(io.BytesIO(noise)))
    assert (read(noise, 8, "centre") == pixels[6:14, 12:20]).all()
    assert (read(noise, 24, "centre") == read(noise, 24, "crop")).all()
    for fit in ("crop", "centre", "stretch"):  # the low one shows what the high one shows
        high, low = read_pixels(noise, [8, 4], fit, ImageLimits())
        assert (high == read(noise, 8, fit)).all() and (low == read(image_bytes(Image.fromarray(high)), 4)).all()
    assert read(picture(0, (2, 4000))).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "I;16"])
def test_modes(mode):
    """A grey of 40 % stays one in every type of pixels."""
    value = {"1": 255, "I;16": 26214}.get(mode)
    if value is None:
        image = Image.new("RGB", (8, 8), (102, 102, 102)).convert(mode)
    else:
        image = Image.new(mode, (8, 8), value)
    ending = "jpg" if mode == "YCbCr" else "tif" if mode == "CMYK" else "png"
    wanted = 255 if mode == "1" else 102
    found = read(image_bytes(image, ending))[4, 4].tolist()
    assert found == pytest.approx([wanted] * 3, abs=2)


def test_more_than_8_bits():
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    wanted = np.rint(ramp / 257).astype(int)
    for data in (
        image_bytes(Image.fromarray(ramp)),
        image_bytes(Image.fromarray(ramp), "tif"),
        b"P5\n8 8\n65535\n" + ramp.astype(">u2").tobytes(),
    ):
        assert np.abs(read(data)[:, :, 0] - wanted).max() <= 1
    # Neither says which value is white, and a guess from the values would make one picture brighter than the next.
    for values in (ramp.astype(np.int32), ramp.astype(np.float32), (ramp / 65535).astype(np.float32)):
        with pytest.raises(Refused, match="unknown_range: a TIFF of (signed|float) samples .*tags 340 and 341"):
            read(image_bytes(Image.fromarray(values), "tif"))
    dark = image_bytes(Image.fromarray(np.full((8, 8), 300, np.uint16)))
    assert read(dark).max() == 1, "16 bits are not stretched"


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert colours(read(image_bytes(image))) == [(255, 255, 255)]
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert colours(read(image_bytes(image))) == [(255, 127, 127)]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    assert colours(read(image_bytes(palette, transparency=0))) == [(0, 255, 0)]
    assert colours(read(image_bytes(palette, transparency=1))) == [(255, 255, 255)]
    assert colours(read(image_bytes(palette, "gif", transparency=1))) == [(255, 255, 255)]
    assert colours(read(image_bytes(Image.new("L", (8, 8), 7), transparency=7))) == [(255, 255, 255)]
    assert colours(read(image_bytes(Image.new("RGB", (8, 8), "red"), transparency=(255, 0, 0)))) == [(255, 255, 255)]
    assert colours(read(image_bytes(Image.new("LA", (8, 8), (0, 0))))) == [(255, 255, 255)]


def test_limits():
    data = picture(0, (20, 10))
    for limits, reason in (
        ({"max_pixels": 199}, "too_large"),
        ({"max_bytes": len(data) - 1}, "too_large"),
        ({"min_side": 11}, "too_small"),
    ):
        with pytest.raises(Refused, match=reason):
            read(data, **limits)
    read(data, max_pixels=200, max_bytes=len(data), min_side=10)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path):
        with pytest.raises(Refused, match="unreadable_image: .*not a regular file"):
            read(path)


def test_larger_than_pillow_allows(monkeypatch):
    """The limit is ours, and Pillow's is as before afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = picture(0, (20, 10))
    read(data)
    with pytest.raises(Refused, match="too_large"):
        read(data, max_pixels=100)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_load_image(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1, (20, 10)))
    image = load_image(tmp_path / "a.png", 8)
    assert image.dtype == torch.uint8 and image.shape == (3, 8, 8) and image.is_contiguous()
    assert (image.permute(1, 2, 0).numpy() == read(picture(1, (20, 10)))).all()
    (tmp_path / "cut.jpg").write_bytes(picture(1, (64, 64), "jpg")[:600])
    paths = [tmp_path / name for name in ("none.png", "a.png", "cut.jpg")]
    images, unreadable = load_images(paths, 8, progress=False)
    assert len(images) == 1 and [path for path, _ in unreadable] == [paths[0], paths[2]]
    for path, message in (
        (paths[0], "missing image: .*none.png does not exist"),
        (paths[2], "unreadable image: .*cut"),
    ):
        with pytest.raises(ValueError, match=message):
            load_image(path, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0" + bytes(99), "unsupported_format: HEIC; accepted: JPEG, MPO, PNG"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "unsupported_format: JPEG XL"),
        (b"8BPS\0\1" + bytes(99), "unsupported_format: Photoshop"),
        (b"v/1\1" + bytes(99), "unsupported_format: OpenEXR"),
        (b"#?RADIANCE\n", "unsupported_format: Radiance HDR"),
        (b"DDS |\0\0\0" + bytes(99), "unsupported_format: DDS"),
        (b"\0\0\1\0\1\0" + bytes(99), "unsupported_format: icon"),
        (b"<?xml version='1.0'?>\n<svg xmlns='a'/>", "unsupported_format: SVG"),
        (b"P7\nWIDTH 8\n", "unsupported_format: PAM"),
        (b"PF\n8 8\n-1\n" + bytes(768), "unsupported_format: colour PFM"),
        (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x08\0\x08\1\1\x11\0", "unsupported_pixels: a JPEG of 12 bits; accepted: 8"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "unreadable_image: a TIFF that is damaged, or"),
        (b"some words", "unreadable_image: no picture of a known format"),
        (b"", "unreadable_image: no picture"),
    ],
)
def test_what_cannot_be_opened_is_named(data, message, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    for raw in (data, tmp_path / "a.png"):
        with pytest.raises(Refused) as refused:
            read(raw)
        assert str(refused.value).replace(f"{tmp_path}/a.png: ", "").startswith(message)


def test_workers_need_no_torch():
    """Reading pixels shares its rule with exported models, and not what these import."""
    code = (
        "import sys, mars_megatron.indexing.pixels; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
