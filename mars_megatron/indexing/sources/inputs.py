"""Which files the inputs of an index are; each becomes a shard of its own."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Problems, Work
from mars_megatron.indexing.sources.folder import folder_sha256, read_images
from mars_megatron.indexing.sources.lines import read_lines
from mars_megatron.indexing.sources.listing import (
    CAPTIONS_FILE,
    LISTS,
    METADATA_FILES,
    Listing,
    extension,
    file_status,
    list_folder,
)
from mars_megatron.indexing.sources.metadata import check_metadata, read_metadata
from mars_megatron.indexing.sources.parquet import check_files, read_parquet
from mars_megatron.indexing.sources.reading import HashedFile
from mars_megatron.indexing.sources.tar import TarCounts, read_tar

# Ending of a file -> kind.
ENDINGS = {".jsonl": "jsonl", ".txt": "txt", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".parquet": "parquet"}


@dataclass(frozen=True)
class InputShard:
    """One input file (or folder of images).

    Args:
        path: Absolute.
        kind: "jsonl", "txt", "tar", "parquet", "metadata" or "folder".
        num_bytes: Its size; of a folder that of all files that count.
        modified_ns: Time of modification, in nanoseconds since 1970; of a folder the latest of these.
        listed: Whether it is the list of a folder that was given, whose files it must account for.
        beside: What is not read of the folder that was given, if anything; the first of its inputs has it.
    """

    path: str
    kind: str
    num_bytes: int
    modified_ns: int
    listed: bool = field(default=False, compare=False)
    beside: Problems | None = field(default=None, compare=False)

    @classmethod
    def of(cls, path: str | Path, kind: str) -> InputShard:
        """Look at a file or folder.

        Raises:
            ValueError: It is a pipe, a device or the like, or its name is no text.
            OSError: It cannot be looked at.
        """
        path = os.path.abspath(path)
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(f"input {path!r} has a name that is not UTF-8; rename it") from None
        if kind != "folder":
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"input {path} is not a regular file; write its contents to a file first")
            return cls(path, kind, status.st_size, status.st_mtime_ns)
        images = list_folder(path).images()
        names = [name for image in images for name in (image.name, *image.captions)]
        times = [file_status(os.path.join(path, name)).st_mtime_ns for name in names]
        return cls(path, kind, sum(image.num_bytes for image in images), max(times, default=0))

    def open(self, options: BuildOptions) -> OpenShard:
        """Begin to read it."""
        return OpenShard(self, options)

    def listing(self) -> Listing | None:
        """The folder whose files it accounts for; None where it is a file by itself."""
        if self.kind == "folder":
            return list_folder(self.path)
        folder, name = os.path.split(self.path)
        return list_folder(folder, prune=name != CAPTIONS_FILE) if self.listed else None

    def sha256(self) -> str:
        """sha256 (hex) of its bytes; of a folder see `folder_sha256`."""
        if self.kind == "folder":
            return folder_sha256(self.path)
        file = HashedFile(self.path)
        try:
            return file.sha256()
        finally:
            file.close()

    def check_unchanged(self) -> None:
        """Raise if it changed since it was looked at.

        Raises:
            ValueError: It did.
        """
        if InputShard.of(self.path, self.kind) != self:
            raise ValueError(f"{self.path} changed while it was read; build again when it is complete")


class OpenShard:
    """The batches of one input, and its checksum when they are through."""

    def __init__(self, shard: InputShard, options: BuildOptions) -> None:
        self._shard, self._options = shard, options
        hashed = shard.kind in ("jsonl", "txt", "tar") or (shard.kind == "metadata" and shard.path.endswith(".jsonl"))
        self._file = HashedFile(shard.path) if hashed else None
        self._tar = TarCounts()

    def __iter__(self) -> Iterator[Work]:
        if self._shard.beside is not None:
            yield self._shard.beside
        if self._shard.kind == "folder":
            listing = list_folder(self._shard.path)
            images = listing.images()
            used = {name for image in images for name in (image.name, *image.captions)}
            if skips := tuple(listing.left_out(used)):
                yield Problems(skips)
            yield from read_images(self._shard.path, images, self._options.batch_size)
        else:
            yield from self._works()

    def _works(self) -> Iterator[Work]:
        shard, options = self._shard, self._options
        if self._file is None:
            if shard.kind == "metadata":
                return read_metadata(shard.path, options.batch_size, shard.listed)
            return read_parquet(shard.path, options)
        if shard.kind == "tar":
            return read_tar(self._file, options.batch_size, options.max_bytes, self._tar)
        metadata = shard.kind == "metadata"
        return read_lines(self._file, metadata or shard.kind == "jsonl", options.batch_size, metadata, shard.listed)

    @property
    def num_members(self) -> int:
        """Of a tar file, so far."""
        return self._tar.members

    def sha256(self) -> str:
        """sha256 (hex) of the input; files that were read to their end are not read again."""
        return self._shard.sha256() if self._file is None else self._file.sha256()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def find_inputs(inputs: list[str | Path]) -> list[InputShard]:
    """The files behind files, folders and globs, in order.

    Raises:
        ValueError: One does not exist, is of no known kind, or is named twice.
    """
    shards: dict[str, InputShard] = {}
    for given in inputs:
        for shard in _expand(str(given)):
            real = os.path.realpath(shard.path)
            if real in shards:
                other = "" if shards[real].path == shard.path else f", as {shards[real].path} and through a link"
                raise ValueError(f"input {shard.path} is given twice{other}")
            shards[real] = shard
    if not shards:
        raise ValueError("no input was given")
    return list(shards.values())


def check_columns(shards: Sequence[InputShard], options: BuildOptions) -> None:
    """Look at the columns of all files that have some before any of them is read.

    Raises:
        ValueError: A file has nothing to index, or lacks a column that the options name; see `parquet.check_files` and
            `metadata.check_metadata`.
    """
    for shard in shards:
        if shard.kind == "metadata" and not shard.path.endswith(".jsonl"):
            check_metadata(shard.path, options)
    check_files([shard.path for shard in shards if shard.kind == "parquet"], options)


def _expand(given: str) -> list[InputShard]:
    """Every file behind one input."""
    if os.path.isdir(given):
        return _expand_folder(given)
    if os.path.exists(given):
        return [InputShard.of(given, _kind(given))]
    if not glob.has_magic(given):
        raise ValueError(f"input {given} does not exist; give a folder, a file or a glob in quotes")
    found = sorted(glob.glob(given, recursive=True))
    if not found:
        raise ValueError(f"input {given} matches no file")
    pairs = (_expand_folder(path) if os.path.isdir(path) else [InputShard.of(path, _kind(path))] for path in found)
    return [shard for shards in pairs for shard in shards]


def _expand_folder(folder: str) -> list[InputShard]:
    """The inputs in a folder: its list, or its images and the lists of folders below, or its files of records."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    files = [name for name in names if not os.path.isdir(os.path.join(folder, name))]
    own = [name for name in LISTS if name in files]
    records = [name for name in files if _find_kind(name) not in (None, "txt") and name not in own]
    if own:
        if others := [*own[1:], *records]:
            raise ValueError(
                f"input {folder} has {own[0]} and files such as {os.path.join(folder, others[0])}; name those that are "
                "meant"
            )
        return _listed(folder, [*own, *(list_folder(folder).lists if own[0] in METADATA_FILES else ())])
    listing = list_folder(folder)
    images = listing.images()
    if records and (images or listing.lists):
        raise ValueError(
            f"input {folder} has images and files such as {os.path.join(folder, records[0])}; "
            "name those that are meant, or a glob in quotes"
        )
    shards = [InputShard.of(os.path.join(folder, name), str(_find_kind(name))) for name in records]
    if images:
        shards.append(InputShard.of(folder, "folder"))
    shards += _listed(folder, listing.lists)
    if not shards:
        raise ValueError(
            f"input {folder} has no {CAPTIONS_FILE}, no images, and no .tar, .parquet or .jsonl files{_hint(listing)}"
        )
    if not images:  # an input of the folder itself has them
        if skips := tuple(listing.left_out(records, beside_records=True)):
            shards[0] = replace(shards[0], beside=Problems(skips))
    return shards


def _listed(folder: str, names: Sequence[str]) -> list[InputShard]:
    """The lists of a folder and of those below, each of which accounts for the files around it.

    Raises:
        ValueError: A folder has two.
    """
    shards: dict[str, InputShard] = {}
    for name in names:
        path = os.path.join(folder, name)
        around = os.path.dirname(path)
        if around in shards:
            raise ValueError(f"input {folder} has {shards[around].path} and {path}; name the one that is meant")
        shards[around] = replace(InputShard.of(path, _kind(path)), listed=True)
    return list(shards.values())


def _hint(listing: Listing) -> str:
    """What to do about the files that a folder has instead."""
    nested = [name for name in listing.files if os.sep in name and _find_kind(name) not in (None, "txt")]
    if nested:
        glob_of_them = os.path.join(listing.folder, "**", f"*.{extension(nested[0])}")
        return f" directly in it, but {nested[0]}; give '{glob_of_them}' in quotes"
    return "".join(f"; {skip.where['file']}: {skip.detail}" for skip in [*listing.left_out(())][:1])


def _find_kind(name: str) -> str | None:
    base = os.path.basename(name)
    if base in METADATA_FILES:
        return "metadata"
    return next((kind for ending, kind in ENDINGS.items() if base.lower().endswith(ending)), None)


def _kind(path: str) -> str:
    kind = _find_kind(path)
    if kind is None:
        raise ValueError(f"input {path} is of no known kind; known are folders and {', '.join(ENDINGS)}")
    return kind
