"""What each format says of its pixels, beyond the mode that Pillow opens it with. Pillow only inside functions."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from mars_megatron.pictures.boxes import read_avif, read_jpeg2000
from mars_megatron.pictures.colours import ADOBE_RGB, SRGB, SRGB_CURVE, coded_profile, matrix_profile, profile_space
from mars_megatron.pictures.picture import Picture, UnusablePicture, file_of, join_bytes, raw_bytes, scaled
from mars_megatron.pictures.tiff import read_tiff


def look(image: Any) -> Picture:
    """Read the samples of a Pillow image, with what its file says of them.

    Args:
        image: As it was opened; not changed but for being loaded.

    Raises:
        UnusablePicture: The file does not say what the samples mean, or says what cannot be shown in 8 bits.
    """
    picture = _READERS.get(image.format, _in_memory)(image)
    if picture.profile is None and image.format != "PNG":
        picture.profile = _said_profile(image.info, None)  # an image made from a PNG keeps what that said
    if picture.profile is None and image.format in (None, "JPEG", "MPO"):
        picture.profile = _exif_profile(image)
    return picture


def _in_memory(image: Any) -> Picture:
    """An image without a format, and formats that Pillow's mode says all about."""
    image.load()
    if image.mode in ("La", "RGBa"):
        return Picture(image.convert(image.mode.upper()))
    if image.mode.startswith("I;16"):
        return Picture(deep=scaled(np.asarray(image).astype(np.uint16), 0, 65535))
    if image.mode in ("I", "F"):
        raise UnusablePicture(
            "unknown_range",
            f"an image of mode {image.mode} does not say which value is white; give 8 bits, or 16 as mode I;16",
        )
    return Picture(image)


def _jpeg(image: Any) -> Picture:
    if image.mode == "CMYK" and "adobe" not in image.info:
        raise UnusablePicture(
            "unknown_colours", "a CMYK JPEG without an Adobe marker does not say whether 0 is no ink or all of it"
        )
    return _in_memory(image)


def _exif_profile(image: Any) -> bytes | None:
    """By the DCF rule for cameras, which embed no profile: the interoperability index R03 is Adobe RGB."""
    data = image.info.get("exif")
    if "icc_profile" in image.info or not isinstance(data, bytes) or b"R03" not in data:
        return None
    exif = image.getexif()
    if exif.get_ifd(0xA005).get(1) != "R03" or exif.get_ifd(0x8769).get(0xA001) == 1:
        return None
    return matrix_profile(ADOBE_RGB, (563 / 256,))


def _png(image: Any) -> Picture:
    bits, kind, cicp, data = 8, -1, None, b""
    with file_of(image) as file:
        if file is not None:
            bits, kind, cicp = _png_header(file)
            if bits == 16 and kind != 0:
                file.seek(0)
                data = file.read()
    profile = _said_profile(image.info, cicp)
    key = image.info.get("transparency")
    if data:
        return Picture(deep=_png_deep(data, kind, key), profile=profile)
    image.load()
    if image.mode.startswith("I"):
        deep = scaled(np.asarray(image).astype(np.uint16), 0, 65535)
        return Picture(deep=deep if key is None else _with_key(deep, key), profile=profile)
    if bits in (2, 4) and kind == 0 and key is not None:  # Pillow spreads the samples, and not the key
        from PIL import Image

        steps = (1 << bits) - 1
        alpha = image.point([0 if value == (key & steps) * (255 // steps) else 255 for value in range(256)])
        image = Image.merge("LA", (image, alpha))
    return Picture(image, profile=profile)


def _png_header(file: IO[bytes]) -> tuple[int, int, bytes | None]:
    """Bits, colour type and the cICP chunk."""
    bits, kind, cicp = 8, -1, None
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        (length,) = struct.unpack(">I", head[:4])
        if head[4:] == b"IHDR" and length == 13:
            bits, kind = file.read(13)[8:10]
        elif head[4:] == b"cICP" and length == 4:
            cicp = file.read(4)
        else:
            file.seek(length, 1)
        file.seek(4, 1)
    return bits, kind, cicp


def _said_profile(info: dict[Any, Any], cicp: bytes | None) -> bytes | None:
    """The order is that of the PNG specification: cICP, iCCP, sRGB, gAMA and cHRM."""
    if cicp is not None:
        if cicp[2] or not cicp[3]:
            raise UnusablePicture(
                "unsupported_pixels", f"a PNG whose cICP chunk says {cicp.hex(' ')}: no full-range RGB"
            )
        return coded_profile(cicp[0], cicp[1])
    if profile_space(info.get("icc_profile")) is not None:
        return info["icc_profile"]
    # A text chunk may stand there under the same name.
    gamma = value if isinstance(value := info.get("gamma"), float) else None
    points = value if isinstance(value := info.get("chromaticity"), tuple) else None
    if isinstance(info.get("srgb"), int) or gamma is None and points is None:
        return None
    colours = SRGB if points is None else (*points[2:], *points[:2])
    # 1 / 2.2 is how encoders write sRGB's curve; libpng too takes what is 5 % from it for the same.
    curve = SRGB_CURVE if not gamma or abs(gamma * 2.2 - 1) < 0.05 else (1 / gamma,)
    near = np.abs(np.subtract(colours, SRGB)).max() < 0.003
    return None if near and curve is SRGB_CURVE else matrix_profile(SRGB if near else colours, curve)


def _png_deep(data: bytes, kind: int, key: Any) -> np.ndarray:
    """RGB, RGBA or grey and alpha of 16 bits; Pillow opens them with 8."""
    if kind == 4:
        both = raw_bytes(data, "PNG", {"LA;16B": "RGBA"})
        return join_bytes(both[..., ::2], both[..., 1::2])
    own = {2: "RGB;16B", 6: "RGBA;16B"}[kind]
    deep = join_bytes(raw_bytes(data, "PNG", {own: own}), raw_bytes(data, "PNG", {own: own[:-1] + "L"}))
    return deep if key is None or kind == 6 else _with_key(deep, key)


def _with_key(deep: np.ndarray, key: Any) -> np.ndarray:
    """Add alpha: transparent where all samples are those of the key."""
    alpha = (deep != np.array(key, np.uint16)).any(axis=-1, keepdims=True)
    return np.concatenate([deep, alpha * np.uint16(65535)], axis=-1)


def _ppm(image: Any) -> Picture:
    if "scale" in image.info or image.mode == "F":
        image.load()
        values, scale = np.asarray(image), image.info["scale"]
        deep = scaled(values, 0, 1)
        if scale != 1:  # netpbm divides by it, the format's author multiplies, others pass over it
            raise UnusablePicture(
                "unknown_range", f"a PFM of scale {scale:g}, which readers take in several ways; save it with scale 1"
            )
        if values.min() < 0 or values.max() > 1:
            raise UnusablePicture(
                "unknown_range",
                f"a PFM whose values lie in {values.min():g}..{values.max():g}, not in 0..1: it does not say which of "
                "them is white",
            )
        return Picture(deep=deep)
    if image.mode in ("P", "RGBA", "CMYK"):
        raise UnusablePicture("unsupported_format", "one of Pillow's own kinds of PPM; accepted: PBM, PGM, PPM and PFM")
    image.load()
    if image.mode.startswith("I"):
        return Picture(deep=scaled(np.asarray(image).astype(np.uint16), 0, 65535))
    return Picture(image)


def _tga(image: Any) -> Picture:
    header, kind = b"", None
    with file_of(image) as file:
        if file is not None:
            header, kind = file.read(18), _tga_attributes(file)
    image.load()
    if not image.has_transparency_data:
        return Picture(image)
    colours = image.convert("RGB")
    alpha = image.convert("RGBA").getchannel("A")
    if not header:
        if alpha.getextrema() == (255, 255):
            return Picture(colours)
        raise UnusablePicture(
            "unknown_colours", "a TGA already read, whose alpha bits cannot be looked up: give it as opened, or as RGB"
        )
    depth, bits = header[7] if header[1] else header[16], header[17] & 15
    if bits == 0 or kind in (0, 1, 2):
        return Picture(colours)
    if depth == 16 and image.mode != "LA":
        if bits != 1 or kind is None:
            raise UnusablePicture(
                "unknown_colours", f"a TGA of 16 bits, {bits} of attributes, and nothing that says what they mean"
            )
        # Pillow takes a set bit for transparent, the specification for opaque.
        alpha = alpha.point([255 - value for value in range(256)])
    elif bits != 8:
        raise UnusablePicture("unsupported_pixels", f"a TGA of {bits} alpha bits; accepted: 0 or 8")
    if kind == 4:
        return Picture(deep=_deep_alpha(colours, alpha), premultiplied=True)
    colours.putalpha(alpha)
    return Picture(colours)


def _tga_attributes(file: IO[bytes]) -> int | None:
    """Type of the attribute bits in the extension area: 3 is alpha, 4 premultiplied; None without one."""
    end = file.seek(0, 2)
    if end < 26 + 495:
        return None
    file.seek(end - 26)
    footer = file.read(26)
    (start,) = struct.unpack("<I", footer[:4])
    if not footer.endswith(b"TRUEVISION-XFILE.\0") or not 0 < start <= end - 495:
        return None
    file.seek(start + 494)
    return file.read(1)[0]


def _deep_alpha(colours: Any, alpha: Any) -> np.ndarray:
    both = np.concatenate([np.asarray(colours), np.asarray(alpha)[..., None]], axis=-1)
    return both.astype(np.uint16) * np.uint16(257)


def _bmp(image: Any) -> Picture:
    profile, indices = None, None
    with file_of(image) as file:
        if file is not None:
            start = 14 if image.format == "BMP" else 0
            header = file.read(start + 124)[start:]
            _check_masks(header)
            profile = _bmp_profile(header, file, start)
            indices = _dropped_palette(image, header, file)
    if indices is not None:
        return Picture(indices, profile=profile)
    image.load()
    return Picture(image, profile=profile)


def _check_masks(header: bytes) -> None:
    """Refuse bit fields that Pillow takes for others."""
    (size,), (bits, compression) = struct.unpack("<I", header[:4]), struct.unpack("<HI", header[14:20])
    if size < 52 or compression != 3:
        return
    masks = struct.unpack("<4I", header[40:56])
    if not any(masks[:3]):
        raise UnusablePicture("unsupported_pixels", "a BMP of bit fields without masks")
    if bits == 16 and size >= 56 and masks[3]:
        raise UnusablePicture("unsupported_pixels", "a BMP of 16 bits with alpha; save it with 32")


def _dropped_palette(image: Any, header: bytes, file: IO[bytes]) -> Any:
    """A palette of greys, which Pillow drops, reading the samples as if they had the bits of its mode; else None."""
    from PIL import Image

    (bits,) = struct.unpack("<H", header[10:12] if header[0] == 12 else header[14:16])
    own = {"1": 1, "L": 8}.get(image.mode)
    if own is None or bits in (0, own):
        return None
    file.seek(0)
    data = file.read()
    with Image.open(io.BytesIO(data), formats=[image.format]) as again:
        (tile,) = again.tile
    if tile.codec_name != "raw" or not isinstance(tile.args, tuple):
        return None
    assert isinstance(tile.args, tuple)  # raw mode, bytes of a row, direction
    args = ("P" if bits == 8 else f"P;{bits}", *tile.args[1:])
    indices = np.asarray(Image.frombytes("P", image.size, data[tile.offset :], "raw", *args))
    return Image.fromarray(indices * np.uint8(255) if image.mode == "1" else indices)


def _bmp_profile(header: bytes, file: IO[bytes], start: int) -> bytes | None:
    """The colour space of a header of version 4 or 5."""
    (size,), kind = struct.unpack("<I", header[:4]), header[56:60][::-1]
    if size < 108:
        return None
    if kind == b"LINK":
        raise UnusablePicture("unknown_colours", "a BMP whose colour profile is another file")
    if kind == b"MBED" and size >= 124:
        offset, length = struct.unpack("<II", header[112:120])
        file.seek(start + offset)
        return file.read(length)
    if kind != bytes(4):  # sRGB, or that of Windows, which is the same
        return None
    ends = np.array(struct.unpack("<9i", header[60:96]), np.float64).reshape(3, 3)
    gammas = np.array(struct.unpack("<3I", header[96:108])) / 65536
    if not ((ends.sum(1) > 0).all() and (gammas > 0).all()):  # as writers leave them that do not know
        return None
    if np.ptp(gammas) > 0.001:
        raise UnusablePicture("unsupported_pixels", "a BMP of three different gammas")
    points = [float(value) for xyz in (*ends, ends.sum(0)) for value in xyz[:2] / xyz.sum()]
    return matrix_profile(tuple(points), (float(gammas[0]),))


def _gif(image: Any) -> Picture:
    """Pillow fills what the frame leaves of the screen with colour 0; it is the background colour."""
    image.load()
    extent = getattr(image, "dispose_extent", None)
    if extent in (None, (0, 0, *image.size)) or image.has_transparency_data:
        return Picture(image)
    index, palette = image.info.get("background"), image.global_palette
    if index is None:  # no palette for the whole screen: nothing there
        colour = (255, 255, 255)
    elif palette is None:  # Pillow drops one of the greys in their order
        colour = (index, index, index)
    else:
        colour = tuple(palette.palette[3 * index : 3 * index + 3])
    from PIL import Image

    screen = Image.new("RGB", image.size, colour)
    screen.paste(image.convert("RGB").crop(extent), extent[:2])
    return Picture(screen)


_READERS: dict[str | None, Callable[[Any], Picture]] = {
    "JPEG": _jpeg, "MPO": _jpeg, "PNG": _png, "PPM": _ppm, "TGA": _tga, "BMP": _bmp, "DIB": _bmp, "AVIF": read_avif,
    "JPEG2000": read_jpeg2000, "GIF": _gif, "TIFF": read_tiff,
}  # fmt: skip
