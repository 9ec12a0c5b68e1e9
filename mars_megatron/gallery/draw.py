"""Images of prompts, into a folder with a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mars_megatron.gallery.cascade import Cascade, Models
from mars_megatron.gallery.image_folder import MANIFEST, ImageFolder, Line
from mars_megatron.gallery.pictures import (
    made_batches,
    make_again,
    make_pictures,
    new_batches,
    origin,
    progress_bar,
)
from mars_megatron.gallery.requests import ImageRequest, plan_drawings
from mars_megatron.platform.parallel import only_on_rank_0
from mars_megatron.sampling.load import config_for_inference


@dataclass(frozen=True)
class Gallery:
    """What `generate` has made.

    Args:
        path: The folder.
        sheet: The contact sheet.
        num_images: Images in the folder.
        num_new: Those that were not there before.
    """

    path: Path
    sheet: Path
    num_images: int
    num_new: int


def generate(
    models: Models,
    requests: Sequence[ImageRequest],
    output: str | Path,
    *,
    num_images: int = 4,
    best_of: int = 1,
    keep_low: bool = False,
    save_codes: bool = False,
    sheet: str | Path | None = None,
    progress: bool = True,
) -> Gallery:
    """Draw images into a folder, a batch at a time; those that are there already are left as they are.

    Every rank must call it; rank 0 writes.

    Args:
        models: What draws.
        requests: The prompts.
        output: The folder, see `ImageFolder`.
        num_images: Images of each prompt that does not say.
        best_of: Candidates drawn for each image, see `Cascade.draw`.
        keep_low: Write the low-resolution images of a cascade too.
        save_codes: Write codes too.
        sheet: File of the contact sheet; None for sheet.png in the folder.
        progress: Show a progress bar on rank 0.

    Raises:
        ValueError: A wrong setting or request, models that do not fit, or the folder holds other images.
    """
    for name, value in (("the number of images", num_images), ("best of", best_of)):
        if value < 1:
            raise ValueError(f"{name} is {value}; accepted: 1 or more")
    if keep_low and not models.high:
        raise ValueError("low-resolution images are to be kept, but the resolution is not high; accepted: high")
    # Before the model is loaded: what is wrong with a request shows at once.
    config = config_for_inference(models.checkpoint, models.overrides)
    planned = plan_drawings(requests, num_images, best_of, config)
    drawings = [drawing for of_request in planned for drawing in of_request]
    cascade, folder = Cascade(models), ImageFolder(output, keep_low, save_codes)
    if best_of > 1:
        _check_captions(requests, cascade)
    wanted = {drawing.file: {**drawing.described(), **origin(cascade)} for drawing in drawings}
    lines, missing = only_on_rank_0(lambda: _present(folder, wanted))
    num_new = len(drawings) - len(lines) + len(missing)
    with progress_bar(len(drawings), len(drawings) - num_new, progress) as bar:
        for batch in made_batches(lines, missing):
            for line, picture in make_again(cascade, batch):
                if line["file"] in missing:
                    _check_same(line, picture.result["pixels"], folder)
                    picture.write(folder)
                    bar.update()
        known = {line["file"] for line in lines}
        size = max(1, config.generation.batch_size * cascade.layout["replicas"] // best_of)
        first_number = max((line["batch"] for line in lines), default=-1) + 1
        batches = new_batches([drawing for drawing in drawings if drawing.file not in known], size)
        for number, part in enumerate(batches, start=first_number):
            pictures = make_pictures(cascade, part)
            for picture in pictures:
                picture.write(folder)
            if torch.distributed.get_rank() == 0:
                common = {"batch": number, "layout": cascade.layout}
                folder.add([{**wanted[picture.file], **picture.result, **common} for picture in pictures])
            bar.update(len(part))
    rows = [(part[0].prompt.text, [drawing.file for drawing in part]) for part in planned]
    written = only_on_rank_0(lambda: folder.write_sheet(rows, sheet))
    return Gallery(folder.path, written, len(drawings), num_new)


def _check_captions(requests: Sequence[ImageRequest], cascade: Cascade) -> None:
    for request in requests:
        if not cascade.first.text_tokenizer.encode(request.prompt.text):
            raise ValueError(
                f"{request.where} is {request.prompt.text!r}, without a token; accepted with best of 2 or more: what "
                "can be a caption"
            )


def _present(folder: ImageFolder, wanted: Mapping[str, Line]) -> tuple[list[Line], set[str]]:
    """The manifest's lines, and of these the files that are not there any more."""
    lines = folder.read(wanted)
    return lines, {line["file"] for line in lines if not folder.is_complete(line["file"])}


def _check_same(line: Line, pixels: str, folder: ImageFolder) -> None:
    if pixels != line["pixels"]:
        raise ValueError(
            f"files of {line['file']} are missing in {folder.path}, and it came out otherwise than {MANIFEST} says "
            "(other versions, another device or number of ranks); accepted: the files put back, or another folder"
        )
