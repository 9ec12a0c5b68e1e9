"""Colours of any ICC profile as sRGB. Pillow (with LittleCMS) only inside functions.

The intent is perceptual: what profiles are made for where pictures are shown. A profile that is broken, or of another
kind than the picture (one of greys for an RGB picture), says nothing: the picture is taken as one without.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mars_megatron.pictures.picture import UnusablePicture

# x and y of red, green, blue and white.
SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)
ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# Of ITU-T H.273, as cICP chunks of PNG and nclx boxes of AVIF name them.
_PRIMARIES = {
    1: SRGB,
    2: SRGB,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.31, 0.316),
    5: (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, 0.3127, 0.329),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.329),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.329),
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329),
    22: (0.63, 0.34, 0.295, 0.605, 0.155, 0.077, 0.3127, 0.329),
}
# Video's curve (1, 6, 14, 15) is meant for screens as sRGB's is, and written by encoders that know no other name.
_CURVES = {**dict.fromkeys((1, 2, 6, 13, 14, 15), SRGB_CURVE), 4: (2.2,), 5: (2.8,), 8: (1.0,)}
_HDR = {16: "PQ", 18: "HLG"}
_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK", "LAB": b"Lab "}
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_TRCS = (b"rTRC", b"gTRC", b"bTRC")


def profile_space(profile: bytes | None) -> bytes | None:
    """Four letters of the colour space that a profile is for; None where it is none or broken."""
    if not profile or len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    return profile[16:20]


@lru_cache(maxsize=16)
def srgb_transform(profile: bytes, mode: str) -> Callable[[Any], Any] | None:
    """What turns Pillow images of a mode of 8 bits (L, RGB, CMYK or LAB) into such of mode RGB, in sRGB.

    Returns:
        A function; None where the profile says nothing of such pixels, or is sRGB to within one level, so that they
        stay as they are.

    Raises:
        UnusablePicture: This Pillow has no LittleCMS.
    """
    from PIL import Image, ImageCms, features

    if profile_space(profile) != _SPACES[mode]:
        return None
    if not features.check("littlecms2"):
        raise UnusablePicture("unsupported_pixels", "it has a colour profile, and this Pillow comes without LittleCMS")
    # Optimised, LittleCMS makes a coarse table of a curve of greys; there are only 256 of them.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.ImageCmsTransform(
            source, _srgb_profile(), mode, "RGB", ImageCms.Intent.PERCEPTUAL, flags=flags
        )
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None
    if mode not in ("L", "RGB"):
        return transform.apply
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 1, 3)
    colours = greys if mode == "L" else np.concatenate([lattice, greys])
    found = np.asarray(transform.apply(Image.fromarray(colours).convert(mode)))
    if np.abs(found.astype(np.int16) - colours).max() <= 1:
        return None
    return transform.apply if mode == "RGB" else lambda image: Image.fromarray(found[np.asarray(image), 0])


def lab_profile() -> bytes:
    """CIE L*a*b* under D50, as pictures in it without a profile are meant."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def coded_profile(primaries: int, curve: int) -> bytes | None:
    """The profile of two codes of H.273; None for sRGB."""
    if curve in _HDR:
        raise UnusablePicture("unsupported_pixels", f"HDR ({_HDR[curve]}): bring it to 8-bit sRGB first")
    if primaries not in _PRIMARIES or curve not in _CURVES:
        raise UnusablePicture("unsupported_pixels", f"colour primaries {primaries} with transfer {curve} (H.273)")
    if (_PRIMARIES[primaries], _CURVES[curve]) == (SRGB, SRGB_CURVE):
        return None
    return matrix_profile(_PRIMARIES[primaries], _CURVES[curve])


@lru_cache(maxsize=16)
def matrix_profile(chromaticities: Sequence[float], curve: Sequence[float]) -> bytes | None:
    """An ICC profile of three primaries and one curve.

    Args:
        chromaticities: x and y of red, green, blue and white.
        curve: Exponent alone; or exponent, a, b, c and d: (a x + b) ** exponent from d on, c x below; or a table of
            more values, 0..65535.

    Returns:
        None where they are no colours.
    """
    points = np.array(chromaticities, np.float64).reshape(4, 2)
    if not (np.isfinite(points).all() and (points[:, 1] > 0).all() and (len(curve) > 5 or 0 < curve[0] < 100)):
        return None
    xyz = np.stack([points[:, 0] / points[:, 1], np.ones(4), (1 - points.sum(1)) / points[:, 1]])
    try:
        primaries = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    except np.linalg.LinAlgError:
        return None
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ xyz[:, 3])
    primaries = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ primaries
    if not (np.isfinite(primaries).all() and np.abs(primaries).max() < 4):
        return None
    if len(curve) > 5:
        count = min(len(curve), 4096)  # LittleCMS refuses very long ones
        curve = np.rint(np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(curve)), curve)).tolist()
        tag = struct.pack(">4s4xI", b"curv", len(curve)) + np.array(curve).astype(">u2").tobytes()
    else:
        tag = struct.pack(">4s4xHxx", b"para", 0 if len(curve) == 1 else 3) + b"".join(map(_fixed, curve))
    tags = {b"wtpt": _xyz(_D50), b"rXYZ": _xyz(primaries[:, 0]), b"gXYZ": _xyz(primaries[:, 1])}
    tags |= {b"bXYZ": _xyz(primaries[:, 2])} | dict.fromkeys(_TRCS, tag)
    return _profile(tags)


@lru_cache(maxsize=4)
def deep_curves(profile: bytes, channels: int) -> tuple[list[np.ndarray], np.ndarray] | None:
    """How samples of 16 bits become linear sRGB, where the profile says it by curves and a matrix.

    Args:
        profile: ICC profile.
        channels: 1 (grey) or 3.

    Returns:
        For each channel float32 [65536], linear light by sample, and float64 [3, 3] or [3, 1] from them to linear
        sRGB; None where the profile is of another kind.
    """
    try:
        tags = _tags(profile)
        space = b"GRAY" if channels == 1 else b"RGB "
        if (profile_space(profile), profile[20:24]) != (space, b"XYZ ") or not {b"A2B0", b"D2B0"}.isdisjoint(tags):
            return None
        curves = [_curve(tags[name]) for name in ((b"kTRC",) if channels == 1 else _TRCS)]
        if any(curve[0] > 1e-4 for curve in curves):  # the intent moves such a black to that of sRGB
            return None
        if channels == 1:
            return curves, np.ones((3, 1))
        columns = [np.array(struct.unpack(">3i", tags[name][8:20])) / 65536 for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        srgb = _tags(matrix_profile(SRGB, SRGB_CURVE) or b"")
        own = [np.array(struct.unpack(">3i", srgb[name][8:20])) / 65536 for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        return curves, np.linalg.solve(np.stack(own, 1), np.stack(columns, 1))
    except (struct.error, KeyError, IndexError, ValueError, ZeroDivisionError, np.linalg.LinAlgError):
        return None


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light, float -> sRGB, both 0..1; what lies outside is cut."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=1)
def _srgb_profile() -> Any:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _curve(tag: bytes) -> np.ndarray:
    """A curv or para tag -> float32 [65536]."""
    x = np.linspace(0, 1, 65536)
    if tag[:4] == b"curv":
        (count,) = struct.unpack(">I", tag[8:12])
        if count == 0:
            return x.astype(np.float32)
        points = np.frombuffer(tag, ">u2", count, 12)
        y = x ** (points[0] / 256) if count == 1 else np.interp(x, np.linspace(0, 1, count), points / 65535)
        return y.astype(np.float32)
    if tag[:4] != b"para":
        raise ValueError("not a curve")
    (kind,) = struct.unpack(">H", tag[8:10])
    count = (1, 3, 4, 5, 7)[kind]
    g, a, b, c, d, e, f = np.pad(
        np.array(struct.unpack(f">{count}i", tag[12 : 12 + 4 * count])) / 65536, (0, 7 - count)
    )
    if kind == 0:
        return (x**g).astype(np.float32)
    if kind in (1, 2):
        shift = c if kind == 2 else 0.0
        y = np.where(x >= -b / a, (a * x + b).clip(0) ** g + shift, shift)
    else:
        y = np.where(x >= d, (a * x + b).clip(0) ** g + e, c * x + f)
    return y.clip(0, 1).astype(np.float32)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack(">I", profile[128:132])
    rows = [struct.unpack(">4sII", profile[132 + 12 * row : 144 + 12 * row]) for row in range(min(count, 100))]
    return {name: profile[start : start + size] for name, start, size in rows}


def _profile(tags: dict[bytes, bytes]) -> bytes:
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s28x", start + len(data), b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return head + b"".join(map(_fixed, _D50)) + bytes(48) + table + data


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
