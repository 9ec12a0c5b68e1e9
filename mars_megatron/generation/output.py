"""Writing samples to files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mars_megatron.generation.grid import image_grid


def write_samples(
    prompts: Sequence[str],
    codes: torch.Tensor,
    images: torch.Tensor,
    *,
    grid_file: str | Path | None = None,
    folder: str | Path | None = None,
    codes_file: str | Path | None = None,
) -> list[Path]:
    """Write what is asked for; each file appears under its name only when it is complete.

    Args:
        prompts: The prompts, each of which has the same number of images.
        codes: int64 [N, grid], all images of the first prompt first.
        images: uint8 [N, height, width, 3], in the same order.
        grid_file: Picture of all images with the prompts beside them.
        folder: For single PNG files, PROMPT_IMAGE.png, both numbers from 0.
        codes_file: .npz with codes [prompts, images, grid] and prompts.

    Returns:
        What was written.
    """
    rows = images.numpy().reshape(len(prompts), -1, *images.shape[1:])
    written: list[Path] = []
    if grid_file:
        written.append(_save_image(image_grid(list(rows), prompts), Path(grid_file)))
    if folder:
        for prompt, row in enumerate(rows):
            for number, image in enumerate(row):
                _save_image(Image.fromarray(image), Path(folder) / f"{prompt:04d}_{number:03d}.png")
        written.append(Path(folder))
    if codes_file:
        path = Path(codes_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            by_prompt = codes.numpy().reshape(len(prompts), -1, codes.shape[1])
            np.savez_compressed(file, codes=by_prompt, prompts=np.array(list(prompts)))
        os.replace(temporary, path)
        written.append(path)
    return written


def _save_image(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    image.save(temporary, format="PNG")
    os.replace(temporary, path)
    return path
