"""Pictures of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mars_megatron.gallery.image_folder import save_image
from mars_megatron.gallery.sheet import image_grid


def write_grid(texts: Sequence[str], images: torch.Tensor, path: str | Path) -> None:
    """Write a picture of images with their texts beside them, on rank 0.

    Args:
        texts: The texts, each of which has the same number of images.
        images: uint8 [N, height, width, 3], those of the first text first.
        path: PNG file; it appears only when it is complete.
    """
    if torch.distributed.get_rank() != 0:
        return
    rows = images.numpy().reshape(len(texts), -1, *images.shape[1:])
    save_image(image_grid(list(rows), texts), path)
