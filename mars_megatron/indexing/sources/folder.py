"""Folders of images with a .txt or .json beside each."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars_megatron.files.hashes import file_sha256
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Files, Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import (
    count_keys,
    decode_utf8,
    given,
    known_fields,
    make_sample,
    parse_json,
    read_captions,
)
from mars_megatron.indexing.sources.listing import (
    CAPTIONS_FILE,
    ImageFile,
    extension,
    file_status,
    list_folder,
)


@dataclass(frozen=True)
class ImageFiles:
    """Some images of a folder."""

    folder: str
    images: list[ImageFile]
    num_bytes: int

    held_bytes: int = 0
    counts_files: bool = True

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        found: list[Sample | Skip] = []
        for image in self.images:
            where: Where = {"file": os.path.join(self.folder, image.name)}
            if image.captions:
                where["captions"] = list(image.captions)  # where the image is left out, so are they
            try:
                found.append(self._sample(image, where, options, unread))
            except Refused as refused:
                files = Files((image.name,), image.captions)
                found.append(Skip(where, refused.reason, refused.detail, files))
        return found

    def split(self) -> Sequence[Work]:
        return [ImageFiles(self.folder, [image], 0) for image in self.images]

    def where(self) -> Where:
        return {"file": os.path.join(self.folder, self.images[0].name)}

    def _sample(self, image: ImageFile, where: Where, options: BuildOptions, unread: Counter[str]) -> Sample:
        names = {extension(name): name for name in image.captions}
        contents = {ending: self._read(name, options) for ending, name in names.items()}
        fields: dict[str, Any] = {}
        unused: list[str] = []
        if "json" in contents:
            fields = parse_json(contents["json"])
            count_keys(fields, known_fields(options) - {"image", "text"}, unread)
        if "txt" in contents:
            text = contents["txt"].rstrip("\r\n")
            if not any(given(fields, name) is not None for name, _ in options.captions):
                fields[options.captions[0][0]] = text
            elif text not in (caption for caption, _ in read_captions(fields, options)):
                unused.append(names.pop("txt"))
                unread["captions in a .txt beside a .json that has some"] += 1
        for name in ("parts", "low") if options.low_resolution else ("parts",):
            if given(fields, name) is not None:
                detail = f'"{name}" in the .json beside an image is not read; name such images in a {CAPTIONS_FILE}'
                raise Refused("bad_record", detail)
        fields["image"] = image.name
        sample = make_sample(fields, where, options, lambda name: os.path.join(self.folder, name))
        sample.files = Files((image.name,), tuple(names.values()), unused)
        return sample

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


def read_images(folder: str, images: Sequence[ImageFile], batch_size: int) -> Iterator[Work]:
    """The images of a folder in batches."""
    for start in range(0, len(images), batch_size):
        part = list(images[start : start + batch_size])
        yield ImageFiles(folder, part, sum(image.num_bytes for image in part))


def folder_sha256(folder: str | Path) -> str:
    """sha256 (hex) of the names and sizes of a folder's images and the contents of the captions beside them."""
    digest = hashlib.sha256()
    for image in list_folder(folder).images():
        size = file_status(os.path.join(folder, image.name)).st_size
        digest.update(json.dumps([image.name, size], ensure_ascii=True).encode())
        for name in image.captions:
            path = Path(folder, name)  # a pipe, or a link that leads nowhere, has no contents
            digest.update(bytes.fromhex(file_sha256(path if path.is_file() else os.devnull)))
    return digest.hexdigest()
