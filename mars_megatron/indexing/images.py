"""Reading raw images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from tqdm import tqdm

# What Pillow raises on bytes that are no image, or on a damaged one.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def load_image(path: str | Path, resolution: int) -> torch.Tensor:
    """Read, turn upright, convert to RGB, resize the shorter side and crop the centre.

    Returns:
        uint8 [3, resolution, resolution].

    Raises:
        One of UNREADABLE.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    if image.size != (resolution, resolution):
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(resolution, resolution, 3).permute(2, 0, 1).contiguous()


def load_images(
    paths: Sequence[Path], resolution: int, *, progress: bool = True
) -> tuple[torch.Tensor, list[tuple[Path, str]]]:
    """Read many images into memory.

    Returns:
        uint8 [N, 3, resolution, resolution] of the readable ones, and (path, why) of the others.
    """
    images = torch.empty((len(paths), 3, resolution, resolution), dtype=torch.uint8)
    unreadable: list[tuple[Path, str]] = []
    count = 0
    for path in tqdm(paths, desc="read images", unit="image", disable=not progress, mininterval=0.5):
        try:
            images[count] = load_image(path, resolution)
            count += 1
        except UNREADABLE as error:
            unreadable.append((path, str(error)))
    return images[:count], unreadable
