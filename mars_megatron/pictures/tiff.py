"""What the tags of a TIFF say of its pixels. Pillow only inside functions."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mars_megatron.pictures.colours import SRGB, SRGB_CURVE, matrix_profile
from mars_megatron.pictures.picture import (
    Picture,
    UnusablePicture,
    check_finite,
    file_of,
    join_bytes,
    raw_bytes,
    scaled,
)

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR = 254, 258, 259, 262, 284
_TRANSFER, _WHITE, _PRIMARIES, _INK_SET, _EXTRA, _FORMAT, _SMIN, _SMAX = 301, 318, 319, 332, 338, 339, 340, 341
_COEFFICIENTS, _SUBSAMPLING, _REFERENCE = 529, 530, 532
_UNSIGNED, _SIGNED = 1, 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INK, _YCBCR = 0, 1, 2, 5, 6
_NO_EXTRA = "a TIFF of four samples that does not say what the fourth is (ExtraSamples, tag 338)"


def read_tiff(image: Any) -> Picture:
    """The first page of a TIFF; see `look`."""
    tags = image.tag_v2
    _check_pages(image)
    photometric = tags.get(_PHOTOMETRIC)
    if photometric is None:
        raise UnusablePicture("unknown_colours", "a TIFF without PhotometricInterpretation (tag 262)")
    bits = max(_values(tags, _BITS, (1,)))
    kind = max(_values(tags, _FORMAT, (_UNSIGNED,)))
    if photometric == _INK and tags.get(_INK_SET, 1) != 1:
        raise UnusablePicture("unsupported_pixels", "a TIFF of inks other than cyan, magenta, yellow and black")
    if photometric == _YCBCR and tags.get(_COMPRESSION, 1) == 1:
        _check_ycbcr(tags)
    if bits == 16 and image.mode in ("RGB", "RGBA", "CMYK"):
        picture = _deep(image, photometric)
    elif kind != _UNSIGNED or image.mode in ("I", "F") or image.mode.startswith("I;16"):
        picture = Picture(deep=_grey(image, bits, kind, photometric == _WHITE_IS_ZERO))
    else:
        image.load()
        _check_alpha(image, tags)
        picture = Picture(image.convert("LA") if image.mode == "La" else image)
    if "icc_profile" not in image.info:
        picture.profile = _calibrated(tags, photometric, bits)
    return picture


def _check_pages(image: Any) -> None:
    """Refuse several pictures; smaller versions and masks of the first are none."""
    if image.tag_v2.get(_SUBFILE, 0) & 1:
        raise UnusablePicture("unsupported_pixels", "a TIFF whose first page is a preview (a camera's raw file)")
    if image.n_frames == 1:
        return
    own = image.tell()
    for page in range(1, image.n_frames):
        image.seek(page)
        if not image.tag_v2.get(_SUBFILE, 0) & 5:
            raise UnusablePicture("animated_image", f"{image.n_frames} frames")
    image.seek(own)


def _values(tags: Any, tag: int, default: tuple[Any, ...]) -> tuple[Any, ...]:
    values = tags.get(tag, default)
    return values if isinstance(values, tuple) else (values,)


def _grey(image: Any, bits: int, kind: int, white_is_zero: bool) -> np.ndarray:
    """Greys of more than 8 bits, and of other than unsigned samples -> uint16 [height, width, 1]."""
    image.load()
    values = np.asarray(image)
    if kind == _UNSIGNED:
        black, white = 0.0, float(2**bits - 1)
        values = values.view(np.uint32) if bits == 32 else values.astype(np.uint16)
    else:
        if bits == 8:
            values = values.view(np.int8)
        check_finite(values)
        lows, highs = _values(image.tag_v2, _SMIN, ()), _values(image.tag_v2, _SMAX, ())
        if not lows or not highs or not lows[0] < highs[0]:
            raise UnusablePicture(
                "unknown_range",
                f"a TIFF of {'signed' if kind == _SIGNED else 'float'} samples does not say which value is white; add "
                "SMinSampleValue and SMaxSampleValue (tags 340 and 341), or save 8 or 16 bits",
            )
        black, white = float(lows[0]), float(highs[0])
    # Pillow turns samples of up to 8 bits itself.
    return scaled(values, white, black) if white_is_zero and image.mode != "L" else scaled(values, black, white)


def _deep(image: Any, photometric: int) -> Picture:
    """RGB and CMYK of 16 bits a sample; Pillow opens them with 8."""
    planes = image.tag_v2.get(_PLANAR, 1) != 1
    if planes and (not image.use_load_libtiff or image.mode != "RGB"):
        raise UnusablePicture("unsupported_pixels", "a TIFF of 16 bits with a plane for each channel; save it in one")
    with file_of(image) as file:
        data = b"" if file is None else file.read()
    if planes or not data:  # the first 8 bits of each, which are all that Pillow gives
        image.load()
        _check_alpha(image, image.tag_v2)
        return Picture(image)
    names = {"RGB": ("RGB", "RGBX"), "RGBA": ("RGBA", "RGBa"), "CMYK": ("CMYK",)}[image.mode]
    # Of the order of the file (L, B) or the machine's (N). The unpacker for L keeps the second byte of a sample, that
    # for B the first; those of straight alpha leave the samples as they are.
    first, second = (
        raw_bytes(data, "TIFF", {f"{name};16{order}": f"{name.upper()};16{end}" for name in names for order in "LBN"})
        for end in "BL"
    )
    little = sys.byteorder == "little" if image.use_load_libtiff else image.tag_v2.prefix[:1] == b"I"
    deep = join_bytes(second, first) if little else join_bytes(first, second)
    if photometric == _INK:
        from PIL import Image

        inks = np.rint(deep / 257.0).astype(np.uint8)
        return Picture(Image.frombytes("CMYK", (inks.shape[1], inks.shape[0]), inks.tobytes()))
    extra = _values(image.tag_v2, _EXTRA, ())
    if image.mode == "RGBA" and not extra and (deep[..., 3] != 65535).any():
        raise UnusablePicture("unknown_colours", _NO_EXTRA)
    return Picture(deep=deep, premultiplied=1 in extra)


def _check_alpha(image: Any, tags: Any) -> None:
    if image.mode == "RGBA" and not _values(tags, _EXTRA, ()) and image.getchannel("A").getextrema() != (255, 255):
        raise UnusablePicture("unknown_colours", _NO_EXTRA)


def _check_ycbcr(tags: Any) -> None:
    """Pillow reads unpacked YCbCr as JPEG's, whatever these tags say."""
    expected = {
        _SUBSAMPLING: ((1, 1), (2, 2)),
        _COEFFICIENTS: ((0.299, 0.587, 0.114),) * 2,
        _REFERENCE: ((0, 255, 128, 255, 128, 255),) * 2,
    }
    for tag, (accepted, default) in expected.items():
        values = [float(value) for value in _values(tags, tag, default)]
        if not np.allclose(values, accepted, atol=0.002):
            raise UnusablePicture(
                "unsupported_pixels", f"an uncompressed YCbCr TIFF with tag {tag} = {values}; accepted: {accepted}"
            )


def _calibrated(tags: Any, photometric: int, bits: int) -> bytes | None:
    """Primaries, white point and transfer function; what is not said of them is that of screens, sRGB."""
    table, points = _values(tags, _TRANSFER, ()), _values(tags, _PRIMARIES, ()) + _values(tags, _WHITE, SRGB[6:])
    if photometric not in (_BLACK_IS_ZERO, _RGB, _YCBCR):
        points = ()
    points = tuple(map(float, points)) if len(points) == 8 else SRGB
    if table:
        size = 1 << bits
        single, rest = table[:size], table[size:]
        if len(single) < size or rest not in ((), single * 2) or photometric not in (_BLACK_IS_ZERO, _RGB):
            raise UnusablePicture(
                "unsupported_pixels",
                f"a TIFF with a TransferFunction (tag 301) of {len(table)} values and photometric interpretation "
                f"{photometric}; accepted: one table of {size} for 1 or 2; or give it an ICC profile",
            )
        return matrix_profile(points, single)
    return None if np.abs(np.subtract(points, SRGB)).max() < 0.003 else matrix_profile(points, SRGB_CURVE)
