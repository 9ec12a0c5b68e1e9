"""What the boxes of AVIF and JPEG 2000 files say of their pixels. Pillow only inside functions."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from mars_megatron.pictures.colours import coded_profile
from mars_megatron.pictures.picture import Picture, UnusablePicture, file_of, scaled

_GREY, _SRGB, _SYCC, _CMYK, _BILEVEL = 17, 16, 18, 12, 15  # enumerated colour spaces


def read_avif(image: Any) -> Picture:
    """An AVIF; see `look`."""
    profile = None
    if "icc_profile" not in image.info:
        with file_of(image) as file:
            if file is not None:
                profile = _avif_profile(file)
    image.load()
    return Picture(image, profile=profile)


def read_jpeg2000(image: Any) -> Picture:
    """A JP2 or a bare codestream; see `look`."""
    with file_of(image) as file:
        data = b"" if file is None else file.read()
    if not data:  # read already: what Pillow made of it
        image.load()
        deep = image.mode.startswith("I;16")
        return Picture(deep=scaled(np.asarray(image).astype(np.uint16), 0, 65535)) if deep else Picture(image)
    header = _jp2_header(data)
    space, profile = _colour(header)
    depth, places = _depth(data)
    image.load()
    if b"pclr" in header:
        return Picture(_with_palette(image, header[b"pclr"], depth), profile=profile)
    if depth > 16 or depth != 8 and space in (_SYCC, _CMYK):
        raise UnusablePicture("unsupported_pixels", f"a JPEG 2000 of {depth} bits, colour space {space or 'not said'}")
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16) >> (16 - depth)
        return Picture(deep=scaled(values, 0, 2**depth - 1), profile=profile)
    if depth != 8:
        image = _eight_bits(image, data, depth, places)
    alpha = _alpha(header, image)
    if alpha == "none":
        image = image.convert("L" if image.mode == "LA" else "RGB")
    deep = None
    if alpha == "premultiplied":
        deep = np.asarray(image).astype(np.uint16) * np.uint16(257)
    return Picture(None if deep is not None else image, deep, deep is not None, profile)


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, first and last byte of the contents of each box of an ISO file."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        last = end if size == 0 else start + size
        if size and size < head or last > end:
            return
        yield kind, start + head, last
        start = last


def _contents(file: IO[bytes], first: int, last: int) -> bytes:
    file.seek(first)
    return file.read(last - first)


def _avif_profile(file: IO[bytes]) -> bytes | None:
    """From the nclx box that belongs to the primary item."""
    end = file.seek(0, 2)
    meta = next(((first + 4, last) for kind, first, last in _boxes(file, 0, end) if kind == b"meta"), None)
    if meta is None:
        return None
    inside = {kind: (first, last) for kind, first, last in _boxes(file, *meta)}
    if b"pitm" not in inside or b"iprp" not in inside:
        return None
    pitm = _contents(file, *inside[b"pitm"])
    primary = int.from_bytes(pitm[4:6] if pitm[0] == 0 else pitm[4:8], "big")
    parts = {kind: (first, last) for kind, first, last in _boxes(file, *inside[b"iprp"])}
    properties = list(_boxes(file, *parts[b"ipco"]))
    for number in _associated(_contents(file, *parts[b"ipma"]), primary):
        kind, first, last = properties[number - 1]
        data = _contents(file, first, last) if kind == b"colr" else b""
        if data[:4] == b"nclx":
            return coded_profile(*struct.unpack(">HH", data[4:8]))
    return None


def _associated(data: bytes, item: int) -> list[int]:
    """Numbers of the properties of an item in an ipma box."""
    code, mask, width = ("H", 0x7FFF, 2) if data[3] & 1 else ("B", 0x7F, 1)
    id_bytes, position = 2 if data[0] == 0 else 4, 8
    for _ in range(int.from_bytes(data[4:8], "big")):
        number = int.from_bytes(data[position : position + id_bytes], "big")
        count, position = data[position + id_bytes], position + id_bytes + 1
        if number == item:
            return [value & mask for value in struct.unpack_from(f">{count}{code}", data, position) if value & mask]
        position += count * width
    return []


def _jp2_header(data: bytes) -> dict[bytes, bytes]:
    """The boxes of the header by type, the first of each; of the colours the first that can be used."""
    file, found = io.BytesIO(data), {}
    outer = _boxes(file, 0, len(data)) if data[4:8] == b"jP  " else ()
    for kind, first, last in (box for parent in outer if parent[0] == b"jp2h" for box in _boxes(file, *parent[1:])):
        contents = _contents(file, first, last)
        if kind not in found and (kind != b"colr" or contents[:1] in (b"\1", b"\2", b"\3")):
            found[kind] = contents
    return found


def _colour(header: dict[bytes, bytes]) -> tuple[int | None, bytes | None]:
    """Number of the enumerated colour space, or a profile."""
    if b"colr" not in header:
        return None, None
    colr = header[b"colr"]
    if colr[0] != 1:
        return None, colr[3:]
    (space,) = struct.unpack(">I", colr[3:7])
    if space not in (_GREY, _SRGB, _SYCC, _CMYK, _BILEVEL):
        raise UnusablePicture("unsupported_pixels", f"a JPEG 2000 in the enumerated colour space {space}")
    return space, None


def _depth(data: bytes) -> tuple[int, list[int]]:
    """Bits of the components, and where in the file they stand."""
    start = data.index(b"\xff\x4f\xff\x51") + 4
    (count,) = struct.unpack(">H", data[start + 36 : start + 38])
    places = [start + 38 + 3 * number for number in range(count)]
    kinds = {data[place] for place in places}
    if any(kind & 0x80 for kind in kinds):
        raise UnusablePicture("unknown_range", "a JPEG 2000 of signed samples does not say which value is black")
    if len(kinds) != 1:
        raise UnusablePicture("unsupported_pixels", "a JPEG 2000 whose components have different numbers of bits")
    return kinds.pop() + 1, places


def _eight_bits(image: Any, data: bytes, depth: int, places: list[int]) -> Any:
    """Undo the shift by which Pillow makes 8 bits of others."""
    from PIL import Image

    values = np.asarray(image)
    if depth < 8:
        samples = values >> (8 - depth)
    else:
        # Rounded up, the brightest become 256, which Pillow keeps as 0. As samples of one bit more, all lie higher by
        # half their range, and do not reach the end.
        other = bytearray(data)
        for place in places:
            other[place] += 1
        with Image.open(io.BytesIO(other), formats=["JPEG2000"]) as again:
            bright = np.asarray(again) > 96
        samples = values.astype(np.uint32) + 256 * (bright & (values == 0)) << (depth - 8)
    spread = np.rint(samples * (255 / (2**depth - 1))).clip(0, 255).astype(np.uint8)
    return Image.frombytes(image.mode, image.size, spread.tobytes())


def _alpha(header: dict[bytes, bytes], image: Any) -> str:
    """straight, premultiplied or none."""
    if image.mode not in ("LA", "RGBA"):
        return "straight"
    data = header.get(b"cdef", b"\0\0")
    rows = [struct.unpack(">3H", data[2 + 6 * row : 8 + 6 * row]) for row in range(int.from_bytes(data[:2], "big"))]
    kinds = {channel: kind for channel, kind, _ in rows}
    own = len(image.getbands()) - 1
    if any(kind in (1, 2) and channel != own for channel, kind in kinds.items()):
        raise UnusablePicture("unsupported_pixels", "a JPEG 2000 whose alpha is not its last component")
    if own not in kinds and image.getchannel("A").getextrema() != (255, 255):
        raise UnusablePicture(
            "unknown_colours", f"a JPEG 2000 of {own + 1} components that does not say whether one is alpha"
        )
    return {1: "straight", 2: "premultiplied"}.get(kinds.get(own, 0), "none")


def _with_palette(image: Any, pclr: bytes, depth: int) -> Any:
    """Pillow drops colours that are there twice, and shifts indices of less than 8 bits."""
    from PIL import Image

    count, columns = struct.unpack(">HB", pclr[:3])
    if image.mode != "P" or columns != 3 or set(pclr[3:6]) != {7} or depth > 8:
        raise UnusablePicture("unsupported_pixels", "a JPEG 2000 with a palette of other than 8-bit RGB")
    table = np.zeros((256, 3), np.uint8)
    table[:count] = np.frombuffer(pclr, np.uint8, 3 * count, 6).reshape(count, 3)
    return Image.fromarray(table[np.asarray(image) >> (8 - depth)])
