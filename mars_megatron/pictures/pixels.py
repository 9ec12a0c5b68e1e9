"""From an opened picture to its pixels: the one rule of the index and of the processor of an exported model.

A picture becomes upright 8-bit sRGB, on white where it is transparent. What its samples mean is taken from its file
(bits, signs, photometric interpretation, kind of alpha, colour profile), not from the mode that Pillow opens it with; a
file that does not say it is left out with a reason. Pillow only inside functions.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from mars_megatron.pictures.colours import deep_curves, encode_srgb, lab_profile, profile_space, srgb_transform
from mars_megatron.pictures.formats import look
from mars_megatron.pictures.picture import Picture, UnusablePicture, strips

# Pillow also opens formats that run other programs (EPS) or that nobody keeps pictures in.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
# What Pillow raises on bytes that are no image, or on a damaged one, beside its own errors (which are OSErrors).
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError,
              OverflowError, ZeroDivisionError, MemoryError, NotImplementedError, RuntimeError, struct.error,
              zlib.error)  # fmt: skip
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
          7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip


def upright_rgb(image: Any) -> Any:
    """A Pillow image as upright 8-bit sRGB on white.

    Of an image that was opened and not yet read, all that its file says counts. Of one that was read (`load`, also by
    resizing or converting it) and whose file cannot be opened again by its path, what Pillow kept: its mode, its
    profile and its EXIF data. One that was made from other pixels is taken for what its mode says: 8 bits, or with mode
    I;16 those up to 65535. Samples of 16 bits are read from the file again, so drawing on such an image has no effect.

    Args:
        image: A PIL.Image.Image; it is not changed, but for being read.

    Returns:
        A PIL.Image.Image of mode RGB. It may be `image` itself.

    Raises:
        UnusablePicture: It cannot be read, or its file does not say what its samples mean; `reason` and `detail`.
        ValueError: It is no PIL image.
    """
    if not isinstance(image, _pillow().Image):
        raise ValueError(f"an image is a {type(image).__name__}; accepted: a PIL image, as PIL.Image.open gives it")
    try:
        if image.format is not None and image.format not in FORMATS:
            raise UnusablePicture("unsupported_format", f"{image.format}; accepted: {', '.join(FORMATS)}")
        # A camera's MPO is a photograph with its previews behind it; pages of a TIFF may be such too.
        frames = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1)
        if frames > 1:
            raise UnusablePicture("animated_image", f"{frames} frames")
        picture = look(image)
        rgb = _eight_bits(picture) if picture.deep is None else _deep(picture)
        turn = _TURNS.get(image.getexif().get(0x0112, 1)) if image.format != "TIFF" else None  # Pillow turns those
        return rgb if turn is None else rgb.transpose(getattr(_pillow().Transpose, turn))
    except UnusablePicture:
        raise
    except UNREADABLE as error:
        raise UnusablePicture("unreadable_image", f"{type(error).__name__}: {error}") from error


def _pillow() -> Any:
    from PIL import Image

    return Image


def _eight_bits(picture: Picture) -> Any:
    """Samples of at most 8 bits -> RGB."""
    image, profile = picture.image, picture.profile
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if profile is None:
            return _on_white(rgba)
        alpha, image = rgba.getchannel("A"), rgba.getchannel("R") if image.mode in ("1", "L", "LA") else rgba
    rgb = _to_srgb(image, profile)
    if alpha is None:
        return rgb
    rgb.putalpha(alpha)
    return _on_white(rgb)


def _on_white(rgba: Any) -> Any:
    Image = _pillow()  # noqa: N806
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    """An image without transparency -> RGB."""
    space = profile_space(profile)
    if image.mode == "LAB" and space != b"Lab ":
        profile = lab_profile()
    if profile is not None:
        if image.mode in ("1", "L"):
            image = image.convert("RGB" if space == b"RGB " else "L")
        elif image.mode not in ("CMYK", "LAB"):
            image = image.convert("RGB")
        transform = srgb_transform(profile, image.mode)
        if transform is not None:
            return transform(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep(picture: Picture) -> Any:
    """Samples of 16 bits -> RGB. Curves and a matrix are applied to all bits, other profiles to the first 8."""
    Image = _pillow()  # noqa: N806
    deep, profile = picture.deep, picture.profile
    assert deep is not None
    space = profile_space(profile)
    if deep.shape[2] < 3 and space == b"RGB ":
        deep = np.concatenate([deep[..., :1]] * 3 + [deep[..., 1:]], axis=-1)
    grey = deep.shape[2] < 3
    curves = None
    if profile is not None and srgb_transform(profile, "L" if grey else "RGB") is None:
        profile = None
    elif profile is not None:
        curves = deep_curves(profile, 1 if grey else 3)
    has_alpha, own = deep.shape[2] in (2, 4), 1 if grey else 3
    result = np.empty((*deep.shape[:2], 3), np.uint8)
    for rows, part in strips(deep):
        alpha = part[..., -1:] / np.float64(65535) if has_alpha else None
        values = part[..., :own]
        if picture.premultiplied and alpha is not None:
            values = np.rint(values / np.maximum(alpha, 1 / 65535)).clip(0, 65535).astype(np.uint16)
        if curves is not None:
            tables, matrix = curves
            light = np.stack([table[values[..., number]] for number, table in enumerate(tables)], -1)
            shares = encode_srgb(light @ matrix.T)
        else:
            shares = values / np.float64(65535)
            if profile is not None:
                eight = np.rint(shares * 255).astype(np.uint8)
                shares = np.asarray(_to_srgb(Image.fromarray(eight[..., 0] if grey else eight), profile)) / 255.0
        if alpha is not None:
            shares = shares * alpha + (1 - alpha)
        result[rows] = np.rint(shares * 255)
    return Image.fromarray(result)
