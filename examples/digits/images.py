"""scikit-learn's handwritten digits as an image-text folder: the real images of the quickstart."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from mars_megatron.indexing.sources.listing import CAPTIONS_FILE

SPLITS = ("train", "held_out")


def load_digit_images(split: str, resolution: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One half of the 1,797 digits, enlarged from 8x8 pixels.

    Args:
        split: "train", the half that the model sees, or "held_out", the half of the classifier that scores it.
        resolution: Height and width, in pixels.
        seed: Seed of the division into halves.

    Returns:
        Images uint8 [N, 3, resolution, resolution], white on black; digits int64 [N].
    """
    from sklearn.datasets import load_digits

    assert split in SPLITS, split
    data = load_digits()
    pixels = torch.from_numpy(data.images).float()[:, None] / 16.0  # [1797, 1, 8, 8] in [0, 1]
    pixels = F.interpolate(pixels, size=(resolution, resolution), mode="bilinear", align_corners=False)
    images = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).repeat(1, 3, 1, 1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    half = len(order) // 2
    chosen = (order[:half] if split == "train" else order[half:]).sort().values
    return images[chosen], torch.from_numpy(data.target)[chosen]


def vary(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    degrees: float = 10.0,
    scale: float = 0.1,
    shift: float = 1.5 / 16,
) -> torch.Tensor:
    """Turn, scale, stretch and shift every image a little, each in its own way.

    Without such variants a model learns its few hundred training pictures by heart.

    Args:
        images: uint8 [N, C, H, W].
        generator: Of the draws.
        degrees: Largest turn either way.
        scale: Largest relative change of size; the width changes by up to half of it more.
        shift: Largest move in each direction, as a share of the picture.

    Returns:
        uint8 [N, C, H, W]; what comes in at the edges is black.
    """

    def draw(limit: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, height = draw(math.radians(degrees)), 1 + draw(scale)
    width = height * (1 + draw(scale / 2))
    move_x, move_y = draw(2 * shift), draw(2 * shift)
    rows = (
        torch.stack([angle.cos() / width, -angle.sin() / width, move_x], dim=1),
        torch.stack([angle.sin() / height, angle.cos() / height, move_y], dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().clamp(0, 255).to(torch.uint8)


def write_digits(
    folder: str | Path,
    captions: Callable[[int], Sequence[str]],
    *,
    split: str = "train",
    variants: int = 1,
    resolution: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Write digits as PNG files with captions.jsonl, the form that a user's own images would have.

    Each line also has the digit as "label", for the classifier that scores samples.

    Args:
        folder: Where to; made if it does not exist.
        captions: Captions of a digit (0..9); each of its pictures gets them all.
        split: Which half, see load_digit_images.
        variants: Pictures written of each digit: itself, then varied ones.
        resolution: Height and width, in pixels.
        seed: Seed of the halves and the variations.
        progress: Show a progress bar.

    Returns:
        Number of pictures. captions.jsonl is written last, so a folder without it is not complete.
    """
    assert variants >= 1
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CAPTIONS_FILE).unlink(missing_ok=True)
    originals, digits = load_digit_images(split, resolution, seed)
    generator = torch.Generator().manual_seed(seed)
    lines = []
    with tqdm(
        total=variants * len(originals), desc="write digits", unit="image", disable=not progress, mininterval=0.5
    ) as bar:
        for variant in range(variants):
            images = vary(originals, generator) if variant else originals
            for number, (image, digit) in enumerate(zip(images.permute(0, 2, 3, 1), digits.tolist(), strict=True)):
                name = f"{number:04d}_{variant:02d}.png"
                Image.fromarray(image.contiguous().numpy()).save(folder / name)
                lines.append({"image": name, "captions": list(captions(digit)), "label": str(digit)})
                bar.update()
    temporary = folder / f"{CAPTIONS_FILE}.tmp"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / CAPTIONS_FILE)
    return len(lines)
