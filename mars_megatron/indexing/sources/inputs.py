"""Which files the inputs of an index are; each becomes a shard of its own."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Work
from mars_megatron.indexing.sources.folder import CAPTIONS_FILE, file_status, folder_sha256, list_images, read_images
from mars_megatron.indexing.sources.lines import read_lines
from mars_megatron.indexing.sources.parquet import check_files, read_parquet
from mars_megatron.indexing.sources.reading import HashedFile
from mars_megatron.indexing.sources.tar import read_tar

# Ending of a file -> kind.
ENDINGS = {".jsonl": "jsonl", ".txt": "txt", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".parquet": "parquet"}


@dataclass(frozen=True)
class InputShard:
    """One input file (or folder of images).

    Args:
        path: Absolute.
        kind: "jsonl", "txt", "tar", "parquet" or "folder".
        num_bytes: Its size; of a folder that of all files that count.
        modified_ns: Time of modification, in nanoseconds since 1970; of a folder the latest of these.
    """

    path: str
    kind: str
    num_bytes: int
    modified_ns: int

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
        images = list_images(path)
        names = [name for image in images for name in (image.name, *image.captions)]
        times = [file_status(os.path.join(path, name)).st_mtime_ns for name in names]
        return cls(path, kind, sum(image.num_bytes for image in images), max(times, default=0))

    def open(self, options: BuildOptions) -> OpenShard:
        """Begin to read it."""
        return OpenShard(self, options)

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
        self._file = HashedFile(shard.path) if shard.kind in ("jsonl", "txt", "tar") else None

    def __iter__(self) -> Iterator[Work]:
        kind, options = self._shard.kind, self._options
        if self._file is None:
            if kind == "folder":
                return read_images(self._shard.path, options.batch_size)
            return read_parquet(self._shard.path, options)
        if kind == "tar":
            return read_tar(self._file, options.batch_size, options.max_bytes)
        return read_lines(self._file, kind == "jsonl", options.batch_size)

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
        for path, kind in _expand(str(given)):
            shard = InputShard.of(path, kind)
            real = os.path.realpath(shard.path)
            if real in shards:
                other = "" if shards[real].path == shard.path else f", as {shards[real].path} and through a link"
                raise ValueError(f"input {shard.path} is given twice{other}")
            shards[real] = shard
    if not shards:
        raise ValueError("no input was given")
    return list(shards.values())


def check_columns(shards: Sequence[InputShard], options: BuildOptions) -> None:
    """Look at the columns of all parquet files before any of them is read.

    Raises:
        ValueError: A file has nothing to index, or lacks a column that the options name; see `parquet.check_files`.
    """
    check_files([shard.path for shard in shards if shard.kind == "parquet"], options)


def _expand(given: str) -> list[tuple[str, str]]:
    """(path, kind) of every file behind one input."""
    if os.path.isdir(given):
        return _expand_folder(given)
    if os.path.exists(given):
        return [(given, _kind(given))]
    if not glob.has_magic(given):
        raise ValueError(f"input {given} does not exist; give a folder, a file or a glob in quotes")
    found = sorted(glob.glob(given, recursive=True))
    if not found:
        raise ValueError(f"input {given} matches no file")
    return [pair for path in found for pair in (_expand_folder(path) if os.path.isdir(path) else [(path, _kind(path))])]


def _expand_folder(folder: str) -> list[tuple[str, str]]:
    captions = os.path.join(folder, CAPTIONS_FILE)
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    files = [(os.path.join(folder, name), _find_kind(name)) for name in names]
    shards = [(path, kind) for path, kind in files if kind not in (None, "txt") and not os.path.isdir(path)]
    if os.path.isfile(captions):
        others = [path for path, _ in shards if path != captions]
        if others:
            raise ValueError(
                f"input {folder} has {CAPTIONS_FILE} and files such as {others[0]}; name those that are meant"
            )
        return [(captions, "jsonl")]
    has_images = bool(list_images(folder))
    if shards and has_images:
        raise ValueError(
            f"input {folder} has images and files such as {shards[0][0]}; "
            "name those that are meant, or a glob in quotes"
        )
    if has_images:
        return [(folder, "folder")]
    if not shards:
        raise ValueError(f"input {folder} has no {CAPTIONS_FILE}, no images, and no .tar, .parquet or .jsonl files")
    return [(path, str(kind)) for path, kind in shards]


def _find_kind(name: str) -> str | None:
    return next((kind for ending, kind in ENDINGS.items() if name.lower().endswith(ending)), None)


def _kind(path: str) -> str:
    kind = _find_kind(path)
    if kind is None:
        raise ValueError(f"input {path} is of no known kind; known are folders and {', '.join(ENDINGS)}")
    return kind
