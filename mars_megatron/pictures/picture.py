"""What is known of a picture before it becomes RGB: samples, alpha, colours. Pillow only inside functions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

REASONS = (
    "unreadable_image", "animated_image", "unsupported_format", "unsupported_pixels", "unknown_range",
    "unknown_colours",
)  # fmt: skip


class UnusablePicture(ValueError):
    """A picture that is left out.

    Args:
        reason: One of REASONS.
        detail: What is wrong, and what can be done.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Picture:
    """Decoded samples and what the file says of them. One of image and deep is there.

    Args:
        image: A Pillow image of at most 8 bits a sample, whose transparency is meant.
        deep: uint16 [height, width, channels], 0 black (or no ink), 65535 white (or all ink); the channels are grey or
            RGB, with alpha behind them where there are 2 or 4.
        premultiplied: The colours of deep are already multiplied by its alpha.
        profile: ICC profile of the samples; None is sRGB.
    """

    image: Any = None
    deep: np.ndarray | None = None
    premultiplied: bool = False
    profile: bytes | None = None


@contextmanager
def file_of(image: Any) -> Iterator[IO[bytes] | None]:
    """The file that a Pillow image is from, at its beginning; None where it cannot be read any more.

    Pillow closes a file once it has read the picture; one that was opened by its path is opened again.
    """
    file = getattr(image, "fp", None)
    if file is not None and not getattr(file, "closed", False):
        position = file.tell()
        file.seek(0)
        try:
            yield file
        finally:
            file.seek(position)
    elif isinstance(path := getattr(image, "filename", ""), (str, Path)) and path and Path(path).is_file():
        with open(path, "rb") as again:
            yield again
    else:
        yield None


def raw_bytes(data: bytes, form: str, rawmodes: dict[str, str]) -> np.ndarray:
    """Read a picture with its samples unpacked in another way than Pillow's own.

    Pillow keeps 8 of 16 bits; unpacked as if they were of the other byte order, it gives the others.

    Args:
        data: The file.
        form: Its format.
        rawmodes: Pillow's unpacker -> the one to take.

    Returns:
        uint8 [height, width, channels], turned as Pillow turns it.

    Raises:
        UnusablePicture: The file is laid out in a way that these unpackers cannot read.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=[form]) as image:
        tiles = []
        for tile in image.tile:
            args = (tile.args,) if isinstance(tile.args, str) else tile.args
            if args is None or args[0] not in rawmodes:
                raise UnusablePicture("unsupported_pixels", f"a {form} with samples laid out as {args}")
            args = (rawmodes[args[0]], *args[1:])
            tiles.append(tile._replace(args=args if len(args) > 1 else args[0]))
        image.tile = tiles
        image.load()
        return np.asarray(image)


def join_bytes(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """uint8 arrays of the two bytes of each sample -> uint16."""
    joined = high.astype(np.uint16)
    joined <<= 8
    joined |= low
    return joined


def scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Samples [height, width] whose black and white are known -> uint16 [height, width, 1].

    Raises:
        UnusablePicture: A sample is no finite number.
    """
    if values.dtype == np.uint16 and (black, white) == (0, 65535):
        return values[..., None]
    check_finite(values)
    result = np.empty((*values.shape, 1), np.uint16)
    for rows, part in strips(values):
        shares = (part.astype(np.float64) - black) * (65535.0 / (white - black))
        result[rows, :, 0] = np.rint(shares).clip(0, 65535)
    return result


def check_finite(values: np.ndarray) -> None:
    """Raise UnusablePicture where a sample is no finite number."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnusablePicture("unreadable_image", "some pixels are no finite numbers")


def strips(values: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows at a time: floats of a whole large picture would fill the memory."""
    rows = max(1, (1 << 20) // max(values[0].size, 1))
    for start in range(0, len(values), rows):
        yield slice(start, start + rows), values[start : start + rows]
