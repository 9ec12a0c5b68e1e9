"""Drawn images as files that the benchmark's own scripts read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from mars_megatron.gallery.output import save_image

_MAX_BYTES = 230  # of a prompt in a file name: with number, ending and .tmp at most 255


def picture_names(prompts: Sequence[str], per_prompt: int) -> list[str]:
    """PROMPT_000000.png, ...: the scripts take the prompt from before the first _, the number from behind the last.

    What a file name cannot hold, or would be read wrongly, is replaced: slash and underscore by a space; a long prompt
    is cut.
    """
    names: list[str] = []
    for prompt in prompts:
        text = prompt.replace("/", " ").replace("_", " ").encode()[:_MAX_BYTES].decode(errors="ignore")
        names += [f"{text}_{len(names) + number:06d}.png" for number in range(per_prompt)]
    return names


def check_folder(folder: Path, names: Sequence[str]) -> None:
    """Whether only these images are in the folder: the scripts score all that they find.

    Raises:
        ValueError: There is another.
    """
    others = {path.name for path in folder.glob("*.png")} - set(names) if folder.is_dir() else set()
    if others:
        raise ValueError(f"images_folder: {folder} holds {len(others)} other images, such as {min(others)}; empty it")


def write_pictures(folder: Path, names: Sequence[str], images: torch.Tensor) -> None:
    """Write PNG files.

    Args:
        folder: Made if it does not exist.
        names: Of the files.
        images: uint8 [N, height, width, 3].
    """
    check_folder(folder, names)
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images.numpy(), strict=True):
        save_image(Image.fromarray(image), folder / name)
