"""Batches of images: made together, and again in the same company."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron.gallery.cascade import Cascade
from mars_megatron.gallery.image_folder import ImageFolder, Line, pixel_fingerprint
from mars_megatron.gallery.requests import Drawing
from mars_megatron.platform.parallel import only_on_rank_0


@dataclass(frozen=True)
class Picture:
    """An image that was made.

    Args:
        file: Where it is written in a folder.
        result: What came out, for the manifest: number of the candidate kept, scores of all, pixels.
        codes: Its codes, and those of low resolution if there are any.
        image: uint8 [height, width, 3] on rank 0.
        low: The low-resolution image on rank 0, if there is one.
    """

    file: str
    result: Mapping[str, Any]
    codes: Mapping[str, np.ndarray]
    image: torch.Tensor | None
    low: torch.Tensor | None

    def write(self, folder: ImageFolder) -> None:
        """Write its files, on rank 0."""
        if self.image is not None:
            folder.write(self.file, self.image, self.low, self.codes)


def origin(cascade: Cascade) -> Line:
    """What the line of every image has: what made it."""
    return {"resolution": cascade.resolution, "model": cascade.record, "super_resolution": cascade.high_record}


def make_pictures(cascade: Cascade, drawings: Sequence[Drawing]) -> list[Picture]:
    """Draw some images of the same settings together. Every rank must call it."""
    drawn = cascade.draw(drawings)
    images: Sequence[torch.Tensor | None] = [None] * len(drawings)
    lows: Sequence[torch.Tensor | None] = images
    if torch.distributed.get_rank() == 0:
        decoded, decoded_low = cascade.pictures(drawn)
        images = list(decoded)
        lows = lows if decoded_low is None else list(decoded_low)
    pixels = only_on_rank_0(lambda: [pixel_fingerprint(image) for image in images if image is not None])
    pictures = []
    for place, drawing in enumerate(drawings):
        codes = {"codes": drawn.codes[place].numpy()}
        if drawn.low_codes is not None:
            codes["low_codes"] = drawn.low_codes[place].numpy()
        result = {"number": drawn.numbers[place], "scores": drawn.scores[place], "pixels": pixels[place]}
        pictures.append(Picture(drawing.file, result, codes, images[place], lows[place]))
    return pictures


def new_batches(drawings: Sequence[Drawing], size: int) -> Iterator[list[Drawing]]:
    """Images to be made together: of the same settings, at most `size`."""
    by_settings: dict[Any, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        by_settings[drawing.settings].append(drawing)
    for alike in by_settings.values():
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def made_batches(lines: Sequence[Line], files: Collection[str]) -> Iterator[list[Line]]:
    """Of a manifest, the batches with any of these files, whole and in order.

    What is computed together decides how it is rounded: in the same batch an image comes out the same to the last bit.
    """
    by_batch: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_batch[line["batch"]].append(line)
    for batch in by_batch.values():
        if any(line["file"] in files for line in batch):
            yield batch


def make_again(cascade: Cascade, batch: Sequence[Line]) -> Iterator[tuple[Line, Picture]]:
    """Make the images of a batch of a manifest again. Every rank must call it."""
    base = replace(cascade.config.generation, batch_size=batch[0]["layout"]["batch_size"])
    drawings = [Drawing.from_description(line, base) for line in batch]
    return zip(batch, make_pictures(cascade, drawings), strict=True)


def progress_bar(total: int, done: int, progress: bool) -> tqdm:
    """A bar over images, on rank 0."""
    hidden = not progress or torch.distributed.get_rank() != 0
    return tqdm(total=total, initial=done, desc="images", unit="image", disable=hidden)
