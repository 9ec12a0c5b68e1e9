"""Folders of images: with captions.jsonl, or with a .txt or .json beside each image."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.pixels import EXTENSIONS
from mars_megatron.indexing.records import Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import decode_utf8, make_sample, parse_json

CAPTIONS_FILE = "captions.jsonl"


@dataclass(frozen=True)
class ImageFile:
    """An image of a folder and what lies beside it.

    Args:
        name: Relative to the folder.
        captions: Names of its .json and .txt, relative to the folder; those that exist.
        num_bytes: Of all of them.
    """

    name: str
    captions: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True)
class ImageFiles:
    """Some images of a folder."""

    folder: str
    images: list[ImageFile]
    num_bytes: int

    def samples(self, options: BuildOptions) -> list[Sample | Skip]:
        found: list[Sample | Skip] = []
        for image in self.images:
            where = {"file": os.path.join(self.folder, image.name)}
            try:
                found.append(self._sample(image, where, options))
            except Refused as refused:
                found.append(Skip(where, refused.reason, refused.detail))
        return found

    def split(self) -> Sequence[Work]:
        return [ImageFiles(self.folder, [image], 0) for image in self.images]

    def where(self) -> Where:
        return {"file": os.path.join(self.folder, self.images[0].name)}

    def _sample(self, image: ImageFile, where: Where, options: BuildOptions) -> Sample:
        contents = {name.rpartition(".")[2].lower(): self._read(name, options) for name in image.captions}
        fields: dict[str, Any] = {}
        if "json" in contents:
            fields = parse_json(contents["json"])
        if not any(fields.get(name) is not None for name, _ in options.captions) and "txt" in contents:
            fields[options.captions[0][0]] = contents["txt"].removeprefix("\ufeff").rstrip("\r\n")
        for name in ("parts", "low") if options.low_resolution else ("parts",):
            if fields.get(name) is not None:
                detail = f'"{name}" in the .json beside an image is not read; name such images in a {CAPTIONS_FILE}'
                raise Refused("bad_record", detail)
        fields["image"] = image.name
        return make_sample(fields, where, options, lambda name: os.path.join(self.folder, name))

    def _read(self, name: str, options: BuildOptions) -> str:
        path = Path(self.folder, name)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise Refused("no_caption", f"{name} is not a regular file")
            if status.st_size > options.max_bytes:
                raise Refused("too_large", f"{name} has {status.st_size} bytes, more than {options.max_bytes}")
            return decode_utf8(path.read_bytes(), f"{name}: ")
        except OSError as error:
            raise Refused("no_caption", f"{name} cannot be read: {error}") from error


def list_images(folder: str | Path) -> list[ImageFile]:
    """The images in a folder and the folders below it, by name.

    Links to folders are followed; a folder that is reached in several ways counts once.

    Raises:
        OSError: A folder cannot be read.
    """
    files: dict[str, int] = {}
    beside: dict[tuple[str, str], str] = {}  # (path without ending, ending in lower case) -> name
    for name in sorted(_walk(folder)):
        files[name] = file_status(os.path.join(folder, name)).st_size
        stem, _, ending = name.rpartition(".")
        beside[stem, ending.lower()] = name  # a.txt comes behind a.TXT, and is the one that counts
    images = []
    for name in files:
        if _extension(name) in EXTENSIONS:
            stem = name[: -len(_extension(name)) - 1]
            captions = tuple(beside[stem, ending] for ending in ("json", "txt") if (stem, ending) in beside)
            images.append(ImageFile(name, captions, sum(files[other] for other in (name, *captions))))
    return images


def file_status(path: str) -> os.stat_result:
    """Of the file, or where a link leads nowhere of the link itself."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return os.lstat(path)


def _walk(folder: str | Path) -> Iterator[str]:
    """Names of all files that are not hidden, relative to the folder."""

    def fail(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that was there before
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.relpath(os.path.join(root, name), folder) for name in names if not name.startswith("."))


def read_images(folder: str | Path, batch_size: int) -> Iterator[Work]:
    """The images of a folder in batches."""
    images = list_images(folder)
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        yield ImageFiles(str(folder), part, sum(image.num_bytes for image in part))


def folder_sha256(folder: str | Path) -> str:
    """sha256 (hex) of the names and sizes of a folder's images and the contents of the captions beside them."""
    digest = hashlib.sha256()
    for image in list_images(folder):
        size = file_status(os.path.join(folder, image.name)).st_size
        digest.update(json.dumps([image.name, size], ensure_ascii=True).encode())
        for name in image.captions:
            path = Path(folder, name)  # a pipe, or a link that leads nowhere, has no contents
            digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()


def captions_file(folder: str | Path) -> Path:
    """The captions.jsonl of an image-text folder.

    Raises:
        ValueError: The folder or the file does not exist.
    """
    path = Path(folder) / CAPTIONS_FILE
    if not Path(folder).is_dir():
        raise ValueError(f"input {folder} is not a folder")
    if not path.is_file():
        raise ValueError(f"input {folder} has no {CAPTIONS_FILE} (one JSON object per line)")
    return path


def folder_images(folder: str | Path, limit: int = 0) -> list[Path]:
    """The images of a folder: those that its captions.jsonl names, or without one those in it and below it.

    Args:
        folder: The folder.
        limit: Most images, spread evenly over all; 0 for all of them.

    Returns:
        Each once, in order. Lines that are no JSON, and that name no image, are passed over.

    Raises:
        ValueError: It is no folder, or has neither captions.jsonl nor images.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"input {folder} is not a folder")
    if (Path(folder) / CAPTIONS_FILE).is_file():
        paths = list(dict.fromkeys(Path(folder, name) for name in _named_images(captions_file(folder))))
    else:
        paths = [Path(folder, image.name) for image in list_images(folder)]
        if not paths:
            raise ValueError(f"input {folder} has no {CAPTIONS_FILE} and no images")
    if limit and len(paths) > limit:
        return [paths[number * len(paths) // limit] for number in range(limit)]
    return paths


def _named_images(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            try:
                sample = parse_json(decode_utf8(line))
            except Refused:
                continue
            name = sample.get("image")
            if isinstance(name, str) and name:
                yield name


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()
