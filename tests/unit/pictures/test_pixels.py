"""From files to pixels: every depth, kind of alpha and profile, by the index and by an exported processor."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from transformers import AutoProcessor

from mars_megatron.export.processing_mars import MarsProcessor
from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from mars_megatron.indexing.records import Refused
from mars_megatron.pictures.colours import srgb_transform
from mars_megatron.pictures.picture import REASONS, UnusablePicture
from mars_megatron.pictures.pixels import upright_rgb
from tests.support.exported_run import Exported
from tests.support.odd_pictures import odd_pictures
from tests.support.odd_samples import ALPHA, GREY, RGB, bits8, full, seen, with_alpha

ODD = odd_pictures()


def opens(data: bytes) -> bool:
    """Whether Pillow opens a file: what it does not, nobody can give to the processor."""
    try:
        Image.open(io.BytesIO(data)).close()
    except OSError:
        return False
    return True


OPENED = sorted(name for name in ODD if opens(ODD[name].data))


def indexed(data: bytes | Path) -> np.ndarray | str:
    """Pixels, or the reason."""
    try:
        return read_pixels(data, [8], "crop", ImageLimits())[0]
    except Refused as refused:
        assert refused.reason in REASONS and refused.detail
        return refused.reason


def shown(image: Image.Image) -> np.ndarray | str:
    try:
        return np.asarray(upright_rgb(image))
    except UnusablePicture as refused:
        assert str(refused).startswith(f"{refused.reason}: ") and refused.detail
        return refused.reason


@pytest.mark.parametrize("name", sorted(ODD))
def test_a_picture_looks_as_its_file_says(name: str, tmp_path: Path) -> None:
    odd = ODD[name]
    (tmp_path / name).write_bytes(odd.data)
    found = indexed(odd.data)
    if isinstance(odd.wanted, str) or isinstance(found, str):
        assert found == odd.wanted
    else:
        assert np.abs(found.astype(int) - odd.wanted).max() <= odd.tolerance
    assert np.array_equal(indexed(tmp_path / name), found)


@pytest.mark.parametrize("name", OPENED)
def test_the_same_by_every_way_of_opening_it(name: str, tmp_path: Path) -> None:
    data, found = ODD[name].data, indexed(ODD[name].data)
    (tmp_path / name).write_bytes(data)
    for file in (io.BytesIO(data), tmp_path / name, str(tmp_path / name)):
        with Image.open(file) as image:
            assert np.array_equal(shown(image), found)
    if isinstance(found, str):
        return
    with Image.open(tmp_path / name) as image:  # read before: its file is opened again
        if name == "dark_greys_of_4.bmp":
            return  # Pillow alone cannot read it
        image.load()
        before = image.tobytes()
        assert np.array_equal(shown(image), found)
        assert image.tobytes() == before


def test_what_pillow_does_not_open_is_left_out() -> None:
    assert {"any.pam", "colour.pfm", "float_rgb.tif"} <= set(ODD) - set(OPENED)
    assert all(isinstance(ODD[name].wanted, str) for name in set(ODD) - set(OPENED))


def test_the_exported_processor_sees_what_the_index_saw(exported: Exported, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(exported.folder, trust_remote_code=True)
    processor.resolution = 8
    for name in OPENED:
        (tmp_path / name).write_bytes(ODD[name].data)
        found = indexed(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            if isinstance(found, str):
                with pytest.raises(ValueError, match=f"{found}: .*{name}: "):
                    processor.encode_images([image])
            else:
                assert np.array_equal(processor._pixels(image).permute(1, 2, 0).numpy(), found), name


def test_an_exported_processor_encodes_half_transparent_and_deep_pictures(exported: Exported, tmp_path: Path) -> None:
    """Whole, with resizing, on the way that users take."""
    processor = AutoProcessor.from_pretrained(exported.folder, trust_remote_code=True)
    for name in ("rgba8.png", "grey16.png", "rgb16_little.tif", "32_no_alpha.tga", "adobe.png"):
        (tmp_path / name).write_bytes(ODD[name].data)
        (pixels,) = read_pixels(tmp_path / name, [processor.resolution], "crop", ImageLimits())
        wanted = exported.sampler.image_tokenizer.encode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
        with Image.open(tmp_path / name) as image:
            assert torch.equal(processor.encode_images(image), wanted), name


def in_memory() -> dict[str, tuple[Image.Image, Any]]:
    """Images that no file stands behind, with what they must look like."""
    rgba = Image.fromarray(with_alpha(RGB, 255).astype(np.uint8))
    grey_alpha = Image.fromarray(with_alpha(GREY, 255).astype(np.uint8))
    adobe = Image.open(io.BytesIO(ODD["adobe.png"].data))
    linear = Image.open(io.BytesIO(ODD["gama_linear.png"].data))
    inks = Image.open(io.BytesIO(ODD["inks.tif"].data))
    turned = bits8(RGB)
    turned.getexif()[0x0112] = 6
    key = bits8(GREY)
    key.info["transparency"] = 0
    return {
        "1": (bits8(GREY).convert("1", dither=Image.Dither.NONE), seen((GREY * 255 > 127) * 1.0)),
        "L": (bits8(GREY), seen(GREY)),
        "L with a key": (key, seen(GREY, GREY > 0)),
        "LA": (grey_alpha, seen(GREY, ALPHA)),
        "La": (grey_alpha.convert("La"), seen(GREY, ALPHA)),
        "P": (bits8(RGB).quantize(256), seen(RGB)),
        "RGB": (bits8(RGB), seen(RGB)),
        "RGB turned": (turned, np.rot90(seen(RGB), -1)),
        "RGBX": (bits8(RGB).convert("RGBX"), seen(RGB)),
        "RGBA": (rgba, seen(RGB, ALPHA)),
        "RGBa": (rgba.convert("RGBa"), seen(RGB, ALPHA)),
        "CMYK": (bits8(RGB).convert("CMYK"), seen(RGB)),
        "YCbCr": (bits8(RGB).convert("YCbCr"), seen(RGB)),
        "HSV": (bits8(RGB).convert("HSV"), seen(RGB)),
        "LAB": (Image.new("LAB", (8, 8), (255, 128, 128)), seen(np.ones((8, 8)))),
        "I;16": (Image.fromarray(full(GREY, 65535).astype(np.uint16)), seen(GREY)),
        "I": (Image.fromarray(full(GREY, 255).astype(np.int32)), "unknown_range"),
        "F": (Image.fromarray(GREY.astype(np.float32)), "unknown_range"),
        "copy with a profile": (adobe.copy(), ODD["adobe.png"].wanted),
        "copy with a gamma": (linear.copy(), ODD["gama_linear.png"].wanted),
        "copy with EXIF data": (Image.open(io.BytesIO(ODD["exif_R03.jpg"].data)).copy(), ODD["exif_R03.jpg"].wanted),
        "inks made RGB, with the profile of inks": (inks.convert("RGB"), seen(np.zeros((8, 8, 3)) + (1, 0, 1))),
        "DDS": (Image.open(io.BytesIO(dds())), "unsupported_format"),
    }


def dds() -> bytes:
    file = io.BytesIO()
    bits8(RGB).save(file, "DDS")
    return file.getvalue()


@pytest.mark.parametrize("name", sorted(in_memory()))
def test_images_without_a_file(name: str) -> None:
    image, wanted = in_memory()[name]
    found = shown(image)
    if isinstance(wanted, str):
        assert found == wanted
    else:
        levels = {"P": 12, "HSV": 12, "copy with EXIF data": 4}.get(name, 3)
        assert np.abs(found.astype(int) - wanted).max() <= levels


# How a picture of each of Pillow's modes is kept in a file: by which format, as which mode.
KEPT = {
    **dict.fromkeys(("1", "L", "LA", "P", "P with a transparent colour", "P with alpha", "RGB", "RGBA", "I;16"), "PNG"),
    **dict.fromkeys(("PA", "CMYK", "YCbCr", "LAB", "I", "F"), "TIFF"),
    **{"La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "HSV": "RGB"},
}


def of_mode(name: str) -> Image.Image:
    """Half transparent, where the mode has that."""
    rgba = Image.fromarray(with_alpha(RGB, 255).astype(np.uint8))
    mode = name.split()[0]
    if mode == "I;16":
        return Image.fromarray(full(GREY, 65535).astype(np.uint16))
    if mode == "LAB":
        return Image.frombytes("LAB", (8, 8), bits8(RGB).tobytes())
    if mode in ("La", "PA", "LA", "RGBA", "RGBa"):
        return (rgba.convert("LA") if mode == "La" else rgba).convert(mode)
    image = bits8(RGB).convert(mode)
    if name == "P with a transparent colour":
        image.info["transparency"] = image.getpixel((1, 1))
    elif name == "P with alpha":
        image.info["transparency"] = bytes(255 - number for number in range(256))
    return image


@pytest.mark.parametrize("name", KEPT)
def test_index_and_processor_agree_on_every_mode(name: str, tmp_path: Path) -> None:
    image, kept = of_mode(name), KEPT[name]
    assert image.mode == name.split()[0]
    form, mode = (kept, image.mode) if kept in ("PNG", "TIFF") else ("PNG", kept)
    (image if mode == image.mode else image.convert(mode)).save(tmp_path / "file", form)
    processor = SimpleNamespace(resolution=8)

    def given(picture: Image.Image) -> np.ndarray | str:
        try:
            return MarsProcessor._pixels(processor, picture).permute(1, 2, 0).numpy()  # type: ignore[arg-type]
        except UnusablePicture as refused:
            return refused.reason

    found = indexed(tmp_path / "file")
    assert np.array_equal(given(Image.open(tmp_path / "file")), found)
    if mode in ("I", "F"):  # in memory nothing says which value is white
        assert given(image) == "unknown_range"
    else:
        assert np.array_equal(given(image), found)
    if image.has_transparency_data:
        on_black = np.asarray(Image.alpha_composite(Image.new("RGBA", (8, 8), "black"), image_as_rgba(image)))[..., :3]
        assert np.any(found != on_black)


def image_as_rgba(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def test_what_pillow_kept_is_used_where_the_file_is_gone() -> None:
    """Read before, from memory: the depth and the alpha bits cannot be looked up."""
    images = {}
    for name in ("rgb16.png", "rgba16.png", "rgb8.png", "32_no_alpha.tga", "32_alpha.tga", "24.tga", "rgb.jp2"):
        images[name] = Image.open(io.BytesIO(ODD[name].data))
        images[name].load()
    for name, image in images.items():
        if name.startswith("32"):
            assert shown(image) == "unknown_colours"
        else:
            assert np.abs(shown(image).astype(int) - ODD[name].wanted).max() <= 2, name


def test_what_is_no_image_is_refused() -> None:
    for given, kind in (("a.png", "str"), (np.zeros((8, 8, 3), np.uint8), "ndarray"), (None, "NoneType")):
        with pytest.raises(ValueError, match=f"an image is a {kind}; accepted: a PIL image"):
            upright_rgb(given)


def test_a_profile_is_prepared_once() -> None:
    """Building a transform takes as long as a small picture; most inputs have few profiles."""
    srgb_transform.cache_clear()
    for _ in range(3):
        for name in ("adobe.png", "srgb_table.png", "inks.tif"):
            indexed(ODD[name].data)
    assert srgb_transform.cache_info().misses == 3
    assert srgb_transform(Image.open(io.BytesIO(ODD["srgb_table.png"].data)).info["icc_profile"], "RGB") is None


def test_a_pillow_without_colour_management_leaves_out_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    srgb_transform.cache_clear()
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert indexed(ODD["adobe.png"].data) == "unsupported_pixels"
    assert np.array_equal(indexed(ODD["rgb8.png"].data), ODD["rgb8.png"].wanted)
    srgb_transform.cache_clear()
