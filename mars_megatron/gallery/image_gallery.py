"""Images of prompts into a folder with a manifest, and once more from that manifest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.files.hashes import content_fingerprint
from mars_megatron.gallery.cascade import Cascade, Models
from mars_megatron.gallery.image_folder import (
    MANIFEST,
    ImageFolder,
    Line,
    differences_of,
    pixel_fingerprint,
    read_manifest,
)
from mars_megatron.gallery.prompts import ImageRequest, PlannedImage, plan_images
from mars_megatron.platform.parallel import only_on_rank_0
from mars_megatron.sampling.load import config_for_inference


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


def sample_pictures(cascade: Cascade, planned_images: Sequence[PlannedImage]) -> list[Picture]:
    """Draw some images of the same settings together. Every rank must call it."""
    sampled = cascade.sample(planned_images)
    images: Sequence[torch.Tensor | None] = [None] * len(planned_images)
    lows: Sequence[torch.Tensor | None] = images
    if torch.distributed.get_rank() == 0:
        decoded, decoded_low = cascade.pictures(sampled)
        images = list(decoded)
        lows = lows if decoded_low is None else list(decoded_low)
    pixels = only_on_rank_0(lambda: [pixel_fingerprint(image) for image in images if image is not None])
    pictures = []
    for place, image_plan in enumerate(planned_images):
        codes = {"codes": sampled.codes[place].numpy()}
        if sampled.low_codes is not None:
            codes["low_codes"] = sampled.low_codes[place].numpy()
        result = {"number": sampled.numbers[place], "scores": sampled.scores[place], "pixels": pixels[place]}
        pictures.append(Picture(image_plan.file, result, codes, images[place], lows[place]))
    return pictures


def new_batches(planned_images: Sequence[PlannedImage], size: int) -> Iterator[list[PlannedImage]]:
    """Images to be made together: of the same settings, at most `size`."""
    by_settings: dict[Any, list[PlannedImage]] = defaultdict(list)
    for image_plan in planned_images:
        by_settings[image_plan.settings].append(image_plan)
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


def sample_again(cascade: Cascade, batch: Sequence[Line]) -> Iterator[tuple[Line, Picture]]:
    """Make the images of a batch of a manifest again. Every rank must call it."""
    base = replace(cascade.config.generation, batch_size=batch[0]["layout"]["batch_size"])
    planned_images = [PlannedImage.from_description(line, base) for line in batch]
    return zip(batch, sample_pictures(cascade, planned_images), strict=True)


def progress_bar(total: int, done: int, progress: bool) -> tqdm:
    """A bar over images, on rank 0."""
    hidden = not progress or torch.distributed.get_rank() != 0
    return tqdm(total=total, initial=done, desc="images", unit="image", disable=hidden)


@dataclass(frozen=True)
class Gallery:
    """What `sample_gallery` has made.

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


def sample_gallery(
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
        models: What samples.
        requests: The prompts.
        output: The folder, see `ImageFolder`.
        num_images: Images of each prompt that does not say.
        best_of: Candidates sampled for each image, see `Cascade.sample`.
        keep_low: Write the low-resolution images of a cascade too.
        save_codes: Write codes too.
        sheet: File of the contact sheet; None for sheet.png in the folder.
        progress: Show a progress bar on rank 0.

    Raises:
        ValueError: A wrong setting or request, models that do not fit, or the folder holds other images.
    """
    _check_options(num_images, best_of, keep_low, models)
    # Before the model is loaded: what is wrong with a request shows at once.
    config = config_for_inference(models.checkpoint, models.overrides)
    planned = plan_images(requests, num_images, best_of, config)
    planned_images = [image_plan for of_request in planned for image_plan in of_request]
    cascade, folder = Cascade(models), ImageFolder(output, keep_low, save_codes)
    if best_of > 1:
        _check_captions(requests, cascade)
    wanted = {image_plan.file: {**image_plan.described(), **origin(cascade)} for image_plan in planned_images}
    lines, missing = only_on_rank_0(lambda: _present(folder, wanted))
    num_new = len(planned_images) - len(lines) + len(missing)
    with progress_bar(len(planned_images), len(planned_images) - num_new, progress) as bar:
        _restore(cascade, folder, lines, missing, bar)
        known = {line["file"] for line in lines}
        size = max(1, config.generation.batch_size * cascade.layout["replicas"] // best_of)
        first_number = max((line["batch"] for line in lines), default=-1) + 1
        batches = new_batches([image_plan for image_plan in planned_images if image_plan.file not in known], size)
        for number, part in enumerate(batches, start=first_number):
            pictures = sample_pictures(cascade, part)
            for picture in pictures:
                picture.write(folder)
            if torch.distributed.get_rank() == 0:
                common = {"batch": number, "layout": cascade.layout}
                folder.add([{**wanted[picture.file], **picture.result, **common} for picture in pictures])
            bar.update(len(part))
    rows = [(part[0].prompt.text, [image_plan.file for image_plan in part]) for part in planned]
    written = only_on_rank_0(lambda: folder.write_sheet(rows, sheet))
    return Gallery(folder.path, written, len(planned_images), num_new)


def _check_options(num_images: int, best_of: int, keep_low: bool, models: Models) -> None:
    for name, value in (("the number of images", num_images), ("best of", best_of)):
        if value < 1:
            raise ValueError(f"{name} is {value}; accepted: 1 or more")
    if keep_low and not models.high:
        raise ValueError("low-resolution images are to be kept, but the resolution is not high; accepted: high")


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


def _restore(cascade: Cascade, folder: ImageFolder, lines: Sequence[Line], missing: set[str], bar: tqdm) -> None:
    """Make files of the manifest that are not there any more."""
    for batch in made_batches(lines, missing):
        for line, picture in sample_again(cascade, batch):
            if line["file"] in missing:
                _check_same(line, picture.result["pixels"], folder)
                picture.write(folder)
                bar.update()


def _check_same(line: Line, pixels: str, folder: ImageFolder) -> None:
    if pixels != line["pixels"]:
        raise ValueError(
            f"files of {line['file']} are missing in {folder.path}, and it came out otherwise than {MANIFEST} says "
            "(other versions, another device or number of ranks); accepted: the files put back, or another folder"
        )


class SampledOtherwise(ValueError):
    """Images came out otherwise than their manifest says."""


def sample_manifest(
    manifest: str | Path,
    models: Models,
    *,
    only: Sequence[str] = (),
    output: str | Path | None = None,
    progress: bool = True,
) -> list[Path]:
    """Draw images of a manifest once more, in the same batches, and compare them with what it says.

    Every rank must call it; rank 0 writes.

    Args:
        manifest: The manifest.
        models: Layout and device; checkpoints and overrides of `data` where they lie elsewhere now. Settings are those
            of the manifest.
        only: Files of these images alone, as the manifest names them; none for all.
        output: Folder for them; None for that of the manifest.
        progress: Show a progress bar on rank 0.

    Returns:
        The files written.

    Raises:
        ValueError: The manifest is damaged or has no such image, or a model is another one.
        SampledOtherwise: An image came out otherwise than the manifest says; that one is not written.
    """
    platform.initialize(models.device)
    platform.init_process_group()
    lines = only_on_rank_0(lambda: read_manifest(manifest))
    files = [line["file"] for line in lines]
    unknown = [file for file in only if file not in files]
    if not lines or unknown:
        named = f"no image {unknown[0]}" if unknown else "no images"
        raise ValueError(f"{manifest} has {named}; accepted: {_some(files) or 'another manifest'}")
    cascade = Cascade(models_of(lines[0], models))
    _check_models(lines, cascade, manifest)
    folder, chosen = ImageFolder(Path(manifest).parent if output is None else output), set(only or files)
    written, other = [], []
    with progress_bar(len(chosen), 0, progress) as bar:
        for batch in made_batches(lines, chosen):
            for line, picture in sample_again(cascade, batch):
                if line["file"] not in chosen:
                    continue
                bar.update()
                if picture.result["pixels"] == line["pixels"]:
                    picture.write(folder)
                    written.append(folder.path / line["file"])
                else:
                    other.append(line["file"])
    if other:
        raise SampledOtherwise(
            f"{len(other)} of {len(chosen)} images came out otherwise than {manifest} says, and were not written: "
            f"{_some(other)}. Other versions of torch, devices or numbers of ranks round differently (then "
            f"{lines[0]['layout']}, now {cascade.layout})"
        )
    return written


def models_of(line: Line, models: Models) -> Models:
    """What made an image of a manifest; where `models` names a place, there."""
    record, high = line["model"], line["super_resolution"]
    found = replace(
        models,
        checkpoint=models.checkpoint or record["checkpoint"],
        high=high is not None,
        overrides=(*_tokenizers(record), *models.overrides),
    )
    if high is None:
        return found
    settings = tuple(f"--generation.{name}={value}" for name, value in high["settings"].items())
    # One checkpoint drew both where the records are of the same files.
    apart = high["fingerprint"] != record["fingerprint"]
    return replace(
        found,
        super_resolution=models.super_resolution or (high["checkpoint"] if apart else ""),
        high_overrides=(*_tokenizers(high), *settings, *models.overrides),
    )


def _tokenizers(record: dict[str, Any]) -> tuple[str, ...]:
    """Those that are still where they were; else the checkpoint's, which are compared by content like all else."""
    found = {name: record[name] for name in ("text_tokenizer", "image_tokenizer")}
    return tuple(
        f"--data.{name}={tokenizer['path']}"
        for name, tokenizer in found.items()
        if Path(tokenizer["path"]).exists() and content_fingerprint(tokenizer["path"]) == tokenizer["fingerprint"]
    )


def _check_models(lines: Sequence[Line], cascade: Cascade, manifest: str | Path) -> None:
    wanted = origin(cascade)
    for line in lines:
        differences = differences_of(line, wanted)
        if differences:
            raise ValueError(
                f"{line['file']} of {manifest} was made by another model ({', '.join(differences)}); accepted: the "
                "same files, wherever they lie"
            )


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:5]) + ", ..." * (len(files) > 5)
