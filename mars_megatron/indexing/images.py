"""Reading raw images as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from mars_megatron.indexing.records import Refused


def load_image(path: str | Path, resolution: int) -> torch.Tensor:
    """Read, turn upright, convert to RGB, resize the shorter side and crop the centre.

    Returns:
        uint8 [3, resolution, resolution].

    Raises:
        ValueError: It cannot be read, or is too large or too small; the message names it.
    """
    try:
        (pixels,) = read_pixels(Path(path), [resolution], "crop", ImageLimits(min_side=1))
    except Refused as refused:
        raise ValueError(f"{refused.reason.replace('_', ' ')}: {refused.detail}") from refused
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


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
        except ValueError as error:
            unreadable.append((path, str(error)))
    return images[:count], unreadable
