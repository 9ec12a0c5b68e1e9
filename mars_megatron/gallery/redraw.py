"""Images made again from a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mars_megatron import platform
from mars_megatron.files.hashes import content_fingerprint
from mars_megatron.gallery.cascade import Cascade, Models
from mars_megatron.gallery.image_folder import ImageFolder, Line, differences_of, read_manifest
from mars_megatron.gallery.pictures import made_batches, make_again, origin, progress_bar
from mars_megatron.platform.parallel import only_on_rank_0


class DrawnOtherwise(ValueError):
    """Images came out otherwise than their manifest says."""


def redraw(
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
        DrawnOtherwise: An image came out otherwise than the manifest says; that one is not written.
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
            for line, picture in make_again(cascade, batch):
                if line["file"] not in chosen:
                    continue
                bar.update()
                if picture.result["pixels"] == line["pixels"]:
                    picture.write(folder)
                    written.append(folder.path / line["file"])
                else:
                    other.append(line["file"])
    if other:
        raise DrawnOtherwise(
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
