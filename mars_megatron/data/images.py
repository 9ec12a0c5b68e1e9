"""Reading raw images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps

# What Pillow raises on bytes that are no image, or on a damaged one.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


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
