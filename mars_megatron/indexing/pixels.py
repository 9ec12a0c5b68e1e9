"""From the bytes of an image file to an array of its pixels. No torch: workers do this."""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mars_megatron.indexing.records import Raw, Refused

# What Pillow raises on bytes that are no image, or on a damaged one.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError,
              OverflowError, ZeroDivisionError, MemoryError, NotImplementedError, RuntimeError, struct.error,
              zlib.error, Image.DecompressionBombError)  # fmt: skip
# Pillow also opens formats that run other programs (EPS) or that nobody keeps pictures in.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
EXTENSIONS = frozenset("jpg jpeg jpe jfif png webp bmp gif tif tiff ppm pgm pbm pnm jp2 avif tga".split())
_LOCK = threading.Lock()


@dataclass(frozen=True)
class ImageLimits:
    """Which images are taken; see `BuildOptions`."""

    max_pixels: int = 89_478_485
    max_bytes: int = 256 << 20
    min_side: int = 2


def read_pixels(raw: Raw | Path, sizes: list[int], fit: str, limits: ImageLimits) -> list[np.ndarray]:
    """Decode an image, turn it upright, convert it to RGB, and bring it to a size, and that to the other sizes.

    Transparent parts become white. 16-bit, 32-bit and float greyscale is scaled to 8 bits.

    Args:
        raw: Bytes, or the path of a file.
        sizes: Heights and widths wanted, in pixels. Those behind the first are made by scaling the first, so that all
            of them show the same part of the image.
        fit: One of options.FITS.
        limits: Which images are taken.

    Returns:
        uint8 [size, size, 3] for each size.

    Raises:
        Refused: missing_image, unreadable_image, animated_image, too_large or too_small.
    """
    if isinstance(raw, bytes):
        num_bytes = len(raw)
    else:
        try:
            status = os.stat(raw)
        except (FileNotFoundError, NotADirectoryError):
            raise Refused("missing_image", f"{raw} does not exist") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise Refused("missing_image", f"{raw!r} cannot be read: {error}") from error
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise Refused("unreadable_image", f"{raw}: not a regular file")
        num_bytes = status.st_size
    if num_bytes > limits.max_bytes:
        raise Refused("too_large", f"{_name(raw)}{num_bytes} bytes, more than {limits.max_bytes}")
    try:
        with warnings.catch_warnings(), _without_own_limit():
            warnings.simplefilter("ignore")  # of damaged EXIF data and the like
            with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw, formats=_formats()) as file:
                _check_size(file, limits)
                image = to_rgb(ImageOps.exif_transpose(file), file.format)
    except Refused as refused:
        raise Refused(refused.reason, f"{_name(raw)}{refused.detail}") from None
    except UNREADABLE as error:
        raise Refused("unreadable_image", f"{_name(raw)}{type(error).__name__}: {error}") from error
    first = resize(image, sizes[0], fit)
    return [np.asarray(first), *(np.asarray(resize(first, size, "stretch")) for size in sizes[1:])]


def to_rgb(image: Image.Image, file_format: str | None = None) -> Image.Image:
    """Any image as 8-bit RGB, on white where it is transparent.

    Raises:
        Refused: Floats that are no numbers.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image, file_format)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: int, fit: str) -> Image.Image:
    """Bring an image to a square of `size` pixels."""
    if image.size == (size, size):
        return image
    if fit == "stretch":
        return image.resize((size, size), Image.Resampling.LANCZOS)
    if fit == "centre" and min(image.size) >= size:
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def _eight_bits(image: Image.Image, file_format: str | None) -> np.ndarray:
    """Greyscale of more than 8 bits -> uint8 [H, W].

    16-bit types span 0..65535. The range of 32-bit and float images is not in the file: it is taken to be the first of
    0..1 (floats), 0..255 and 0..65535 that holds all values, or else that of the values.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise Refused("unreadable_image", "some pixels are no finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16") or file_format in ("PNG", "PPM"):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65535.0
    return np.rint((values - low) * (255.0 / max(high - low, 1e-300))).clip(0, 255).astype(np.uint8)


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise Refused("too_large", f"{width} x {height} pixels, more than {limits.max_pixels}")
    if min(width, height) < limits.min_side:
        raise Refused("too_small", f"{width} x {height} pixels, a side below {limits.min_side}")
    # A camera's MPO is a photograph with its previews behind it.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise Refused("animated_image", f"{frames} frames")


@contextmanager
def _without_own_limit() -> Iterator[None]:
    """Pillow's limit of pixels is a global; ours is checked before anything is decoded."""
    with _LOCK:
        own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = own


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _name(raw: Raw | Path) -> str:
    return "" if isinstance(raw, bytes) else f"{raw}: "
