"""Picture files of kinds that Pillow does not write, byte by byte. All are small."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

TAG_SIZES = {1: "B", 3: "H", 4: "I", 7: "B", 11: "f", 12: "d"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    samples: np.ndarray, bits: int = 8, kind: int | None = None, chunks: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG of samples [height, width, channels], not scaled; chunks stand before the pixels."""
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples.shape
    if kind is None:
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples]
    else:
        rows = [packed(row.ravel(), bits) for row in samples]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def interlaced_png(samples: np.ndarray, bits: int, kind: int) -> bytes:
    """A PNG of samples of 8 or 16 bits, its pixels in the seven passes of Adam7."""
    height, width, _ = samples.shape
    data = b""
    for left, top, right, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        data += b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples[top::down, left::right])
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def packed(row: np.ndarray, bits: int) -> bytes:
    """Samples of less than 8 bits, or of 12, the first in the highest bits."""
    digits = "".join(f"{value:0{bits}b}" for value in row.tolist())
    digits += "0" * (-len(digits) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big")


def tiff(
    pixels: bytes | Sequence[bytes],
    size: tuple[int, int],
    bits: Sequence[int],
    photometric: int | None,
    tags: Mapping[int, tuple[int, Sequence[Any]]] = {},  # noqa: B006
    order: str = "<",
    compressed: bool = False,
    next_page: int = 0,
) -> bytes:
    """A TIFF of one strip, or of one for each plane."""
    strips = [pixels] if isinstance(pixels, bytes) else list(pixels)
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    offsets, place = [], 8
    for strip in strips:
        offsets.append(place)
        place += len(strip) + len(strip) % 2
    entries: dict[int, tuple[int, Sequence[Any]]] = {
        256: (4, [size[0]]), 257: (4, [size[1]]), 258: (3, bits), 259: (3, [8 if compressed else 1]), 273: (4, offsets),
        277: (3, [len(bits)]), 278: (4, [size[1]]), 279: (4, [len(strip) for strip in strips]),
        284: (3, [1 if len(strips) == 1 else 2]), **tags,
    }  # fmt: skip
    if photometric is not None:
        entries[262] = (3, [photometric])
    table, extra, free = b"", b"", place + 2 + 12 * len(entries) + 4
    for tag in sorted(entries):
        kind, values = entries[tag]
        data = struct.pack(f"{order}{len(values)}{TAG_SIZES[kind]}", *values)
        table += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(data) <= 4:
            table += data.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", free + len(extra))
            extra += data + bytes(len(data) % 2)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", place)
    body = b"".join(strip + bytes(len(strip) % 2) for strip in strips)
    return head + body + struct.pack(f"{order}H", len(entries)) + table + struct.pack(f"{order}I", next_page) + extra


def two_pages(first: Image.Image, second: Image.Image, kind: int) -> bytes:
    """A TIFF of two pages; kind is NewSubfileType of the second."""
    second.encoderinfo = {"tiffinfo": {254: kind}}  # type: ignore[attr-defined]
    file = io.BytesIO()
    first.save(file, "TIFF", save_all=True, append_images=[second])
    data = bytearray(file.getvalue())
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    (page,) = struct.unpack("<I", data[start + 2 + 12 * count : start + 6 + 12 * count])
    (count,) = struct.unpack("<H", data[page : page + 2])
    # The first entry of a page is ImageWidth: NewSubfileType is put in place of one that is not needed.
    for entry in range(page + 2, page + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == 254:
            data[entry + 8 : entry + 12] = struct.pack("<I", kind)
    return bytes(data)


def tga(
    pixels: bytes,
    size: tuple[int, int],
    depth: int,
    descriptor: int,
    kind: int = 2,
    palette: tuple[int, bytes] | None = None,
    attributes: int | None = None,
) -> bytes:
    """A TGA; palette is its bits an entry and its bytes; attributes the type of alpha in the extension area."""
    entries = (0, 0, 0) if palette is None else (0, len(palette[1]) * 8 // palette[0], palette[0])
    head = struct.pack("<BBBHHBHHHHBB", 0, palette is not None, kind, *entries, 0, 0, *size, depth, descriptor)
    data = head + (palette[1] if palette else b"") + pixels
    if attributes is None:
        return data
    area = struct.pack("<H", 495) + bytes(492) + bytes([attributes])
    return data + area + struct.pack("<II", len(data), 0) + b"TRUEVISION-XFILE.\0"


def bmp(
    pixels: bytes,
    size: tuple[int, int],
    bits: int,
    header: int = 40,
    masks: Sequence[int] = (),
    palette: bytes = b"",
    colours: int = 0,
    fields: Mapping[int, bytes] = {},  # noqa: B006
    behind: bytes = b"",
    dib: bool = False,
) -> bytes:
    """A BMP, bottom row first; fields are bytes at places of the header, behind what follows the pixels."""
    info = bytearray(header)
    if header == 12:
        info[:12] = struct.pack("<IHHHH", 12, *size, 1, bits)
    else:
        info[:40] = struct.pack(
            "<IiiHHIIiiII", header, *size, 1, bits, 3 if masks else 0, len(pixels), 0, 0, colours, 0
        )
    extra = struct.pack(f"<{len(masks)}I", *masks)
    if header > 40:
        info[40 : 40 + len(extra)] = extra
        extra = b""
    for place, data in fields.items():
        info[place : place + len(data)] = data
    start = 14 + header + len(extra) + len(palette)
    head = b"" if dib else struct.pack("<2sIII", b"BM", start + len(pixels) + len(behind), 0, start)
    return head + bytes(info) + extra + palette + pixels + behind


def pfm(values: np.ndarray, scale: float) -> bytes:
    """A grey PFM of values [height, width]; the sign of the scale is the order of the bytes."""
    data = values[::-1].astype("<f4" if scale < 0 else ">f4").tobytes()
    return f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode() + data


def jp2(image: Image.Image, bits: int | None = None, signed: bool = False, **options: Any) -> bytes:
    """A lossless JPEG 2000; `bits` is what it afterwards says, and its samples lie around the middle of either."""
    file = io.BytesIO()
    image.save(file, "JPEG2000", irreversible=False, **{"mct": 0, **options})
    data = bytearray(file.getvalue())
    if bits is not None:
        start = data.index(b"\xff\x4f\xff\x51") + 4
        for component in range(struct.unpack(">H", data[start + 36 : start + 38])[0]):
            data[start + 38 + 3 * component] = bits - 1 + 128 * signed
        if b"ihdr" in data:
            data[data.index(b"ihdr") + 14] = bits - 1 + 128 * signed
    return bytes(data)


def with_boxes(data: bytes, old: bytes, new: bytes) -> bytes:
    """A JP2 with other bytes in its header box."""
    start = data.index(b"jp2h") - 4
    (size,) = struct.unpack(">I", data[start : start + 4])
    header = data[start : start + size].replace(old, new)
    return data[:start] + struct.pack(">I", len(header)) + header[4:] + data[start + size :]


def icc(space: bytes, tags: Mapping[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2."""
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4xI4s4s4s12x", start + len(data), 0x02100000, kind, space, pcs) + b"acsp" + bytes(28)
    return head + _xyz(0.9642, 1, 0.8249)[8:] + bytes(48) + table + data


def matrix_icc(columns: Sequence[Sequence[float]], gamma: float, curve: bytes = b"") -> bytes:
    """An RGB profile; columns are the primaries under D50. The curve is a whole tag, in place of the gamma."""
    curve = curve or b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"wtpt": _xyz(0.9642, 1, 0.8249)}
    for name, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {name + b"XYZ": _xyz(*column), name + b"TRC": curve}
    return icc(b"RGB ", tags)


def grey_icc(gamma: float) -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return icc(b"GRAY", {b"wtpt": _xyz(0.9642, 1, 0.8249), b"kTRC": curve})


def table_icc(space: bytes, corners: np.ndarray) -> bytes:
    """A profile of a table between the corners of its colour space [2 ** channels, 3], L*a*b* of 8 bits."""
    channels = {b"CMYK": 4, b"RGB ": 3}[space]
    ramps = bytes(range(256)) * (channels + 3)
    matrix = b"".join(struct.pack(">i", 65536 * (number % 4 == 0)) for number in range(9))
    table = b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + matrix
    table += ramps[: 256 * channels] + corners.astype(np.uint8).tobytes() + ramps[: 256 * 3]
    return icc(space, {b"wtpt": _xyz(0.9642, 1, 0.8249), b"A2B0": table}, b"Lab ", b"prtr")


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))
