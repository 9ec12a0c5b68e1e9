"""From the bytes of an image file to an array of its pixels. No torch: workers do this."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mars_megatron.indexing.records import Raw, Refused
from mars_megatron.pictures.picture import UnusablePicture
from mars_megatron.pictures.pixels import FORMATS, UNREADABLE, upright_rgb

EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif mpo png apng webp bmp dib gif tif tiff ppm pgm pbm pnm pfm jp2 j2k j2c jpx jpf avif "
    "tga icb vda vst".split()
)
_LOCK = threading.Lock()
# How files begin that Pillow, with the formats above, does not open: by a format, or a kind of it, that is not read.
_BEGINNINGS = {
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)", "JPEG XL": rb"\xff\x0a|....JXL ", "Photoshop": rb"8BPS", "DDS": rb"DDS ",
    "video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "OpenEXR": rb"v/1\x01", "Radiance HDR": rb"#\?R", "QOI": rb"qoif",
    "icon": rb"\0\0[\x01\x02]\0", "Mac icon": rb"icns", "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6", "PDF": rb"%PDF",
    "SVG": rb"\s*(<\?xml.{0,999})?<svg", "PAM": rb"P7\s", "colour PFM": rb"PF\s", "FITS": rb"SIMPLE  =",
    "DICOM": rb".{128}DICM", "FLIF": rb"FLIF", "JPEG XR": rb"II\xbc", "PCX": rb"\x0a[\x00-\x05]\x01",
    "SGI": rb"\x01\xda", "Sun raster": rb"\x59\xa6\x6a\x95",
}  # fmt: skip
_DAMAGED = {
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG", "TIFF": rb"(II|MM)[\0\x2a\x2b]{2}", "BMP": rb"BM", "GIF": rb"GIF8",
    "WebP": rb"RIFF....WEBP", "JPEG 2000": rb"\xff\x4f\xff\x51|....jP  ", "AVIF": rb"....ftypavi[fs]",
}  # fmt: skip


@dataclass(frozen=True)
class ImageLimits:
    """Which images are taken; see `BuildOptions`."""

    max_pixels: int = 89_478_485
    max_bytes: int = 256 << 20
    min_side: int = 2


def read_pixels(raw: Raw | Path, sizes: list[int], fit: str, limits: ImageLimits) -> list[np.ndarray]:
    """Decode an image to upright 8-bit sRGB on white (`upright_rgb`), bring it to a size, and that to the other sizes.

    Args:
        raw: Bytes, or the path of a file.
        sizes: Heights and widths wanted, in pixels. Those behind the first are made by scaling the first, so that all
            of them show the same part of the image.
        fit: One of options.FITS.
        limits: Which images are taken.

    Returns:
        uint8 [size, size, 3] for each size.

    Raises:
        Refused: missing_image, too_large or too_small, or a reason of `UnusablePicture`.
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
                image = upright_rgb(file)
    except (Refused, UnusablePicture) as refused:
        raise Refused(refused.reason, f"{_name(raw)}{refused.detail}") from None
    except UnidentifiedImageError:
        raise _unidentified(raw) from None
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise Refused("unreadable_image", f"{_name(raw)}{type(error).__name__}: {error}") from error
    first = resize(image, sizes[0], fit)
    return [np.asarray(first), *(np.asarray(resize(first, size, "stretch")) for size in sizes[1:])]


def _unidentified(raw: Raw | Path) -> Refused:
    """Say what a file is that cannot be opened."""
    if isinstance(raw, bytes):
        head = raw[: 1 << 16]
    else:
        with open(raw, "rb") as file:
            head = file.read(1 << 16)

    def named(beginnings: dict[str, bytes]) -> str | None:
        return next((name for name, pattern in beginnings.items() if re.match(pattern, head, re.DOTALL)), None)

    if name := named(_DAMAGED):
        # The frame header: marker, its length for 1 to 4 components, bits of a sample.
        bits = re.search(rb"\xff[\xc0-\xc3]\0[\x0b\x0e\x11\x14]([^\x08])", head, re.DOTALL) if name == "JPEG" else None
        if bits:
            return Refused("unsupported_pixels", f"{_name(raw)}a JPEG of {bits[1][0]} bits; accepted: 8")
        return Refused(
            "unreadable_image", f"{_name(raw)}a {name} that is damaged, or of a kind that Pillow does not read"
        )
    if name := named(_BEGINNINGS):
        return Refused("unsupported_format", f"{_name(raw)}{name}; accepted: {', '.join(FORMATS)}")
    return Refused("unreadable_image", f"{_name(raw)}no picture of a known format")


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


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise Refused("too_large", f"{width} x {height} pixels, more than {limits.max_pixels}")
    if min(width, height) < limits.min_side:
        raise Refused("too_small", f"{width} x {height} pixels, a side below {limits.min_side}")


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
    return [name for name in FORMATS if name in Image.OPEN]


def _name(raw: Raw | Path) -> str:
    return "" if isinstance(raw, bytes) else f"{raw}: "
