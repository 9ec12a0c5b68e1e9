"""The image-folder convention of Hugging Face's datasets: metadata.csv and metadata.parquet, whose rows name images.

metadata.jsonl is read as other JSONL is, see `lines`. What the columns mean is in `fields`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mars_megatron.indexing.options import DEFAULT_CAPTIONS, BuildOptions
from mars_megatron.indexing.records import Problems, Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import (
    file_name_columns,
    other_than_utf8,
    parse_json,
)
from mars_megatron.indexing.sources.lines import MAX_LINE
from mars_megatron.indexing.sources.listing import CAPTIONS_FILE, LISTS, list_folder
from mars_megatron.indexing.sources.naming import NamingRecords
from mars_megatron.indexing.sources.parquet import plain_batches, schema_names


@dataclass(frozen=True)
class MetadataRows:
    """Some rows of a metadata.csv or metadata.parquet.

    Args:
        file: The file.
        rows: (where, fields); a string instead of fields says what is wrong with the row.
        num_bytes: Share of the file's size.
        counts_files: Whether the images that they name are counted.
    """

    file: str
    rows: list[tuple[Where, dict[str, Any] | str]]
    num_bytes: int
    counts_files: bool
    held_bytes: int = 0

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        found: list[Sample | Skip] = []
        records = NamingRecords(self.file, options, metadata=True, counts_files=True)
        for where, fields in self.rows:
            records.named.clear()
            try:
                if isinstance(fields, str):
                    raise Refused("bad_record", fields)
                found.append(records.sample(fields, where))
            except Refused as refused:
                found.append(Skip(where, refused.reason, refused.detail, records.files()))
        records.count_keys(unread, "column")
        return found

    def split(self) -> Sequence[Work]:
        return [replace(self, rows=[row], num_bytes=0) for row in self.rows]

    def where(self) -> Where:
        return self.rows[0][0]


def read_metadata(path: str, batch_size: int, counts_files: bool) -> Iterator[Work]:
    """Read a metadata.csv or metadata.parquet."""
    size, done = os.path.getsize(path), 0
    rows = _csv_rows(path) if path.endswith(".csv") else _parquet_rows(path)
    try:
        while part := list(islice(rows, batch_size)):
            share = min(sum(len(str(row)) for _, row in part), size - done)
            done += share
            yield MetadataRows(path, part, share, counts_files)
    except Refused as refused:
        yield Problems((Skip({"file": path}, refused.reason, refused.detail),), 0)


def check_metadata(path: str, options: BuildOptions) -> None:
    """Look at the columns of a metadata.csv or metadata.parquet before anything is read.

    Raises:
        ValueError: No column names images, or none of --captions is there where it was given.
    """
    try:
        names = next(_csv(path), (0, []))[1] if path.endswith(".csv") else schema_names(path)
    except Refused as refused:
        raise ValueError(f"{path}: {refused.detail}") from None
    if names is None:
        return  # damaged, which reading tells
    wanted = file_name_columns(options)
    if not set(wanted) & set(names):
        hint = "; columns are separated by commas" if path.endswith(".csv") and len(names) == 1 else ""
        raise ValueError(
            f"{path} has the columns {', '.join(names)}; wanted is {' or '.join(wanted)}, with the names of images "
            f"(--image-column NAME reads NAME_file_name){hint}"
        )
    captions = [name for name, _ in options.captions]
    if tuple(captions) != DEFAULT_CAPTIONS and not set(captions) & set(names):
        raise ValueError(f"{path} has the columns {', '.join(names)}; wanted is one of --captions {' '.join(captions)}")


def _csv(path: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, values) of every row that is not empty.

    Raises:
        Refused: invalid_utf8 of the whole file, or bad_record.
    """
    with open(path, "rb") as file:
        refused = other_than_utf8(file.read(4))
    if refused is not None:
        raise refused
    csv.field_size_limit(MAX_LINE)
    # names of files may be of any bytes; captions that are not UTF-8 are left out by the worker
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise Refused("bad_record", f"damaged from line {reader.line_num} on: {error}") from error


def _csv_rows(path: str) -> Iterator[tuple[Where, dict[str, Any] | str]]:
    rows = _csv(path)
    _, names = next(rows, (0, []))
    for number, values in rows:
        where = {"file": path, "line": number}
        if len(values) != len(names):
            yield where, f"{len(values)} values for {len(names)} columns; values with commas or quotes need quotes"
        else:
            yield where, {name: value or None for name, value in zip(names, values, strict=True)}


def _parquet_rows(path: str) -> Iterator[tuple[Where, dict[str, Any] | str]]:
    number = 0
    for batch in plain_batches(path):
        for row in _values(batch):
            yield {"file": path, "row": number}, row
            number += 1


def _values(batch: Any) -> list[dict[str, Any] | str]:
    """The rows of a batch; what is wrong with those that are not UTF-8."""
    try:
        rows: list[dict[str, Any] | str] = batch.to_pylist()
        return rows
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [f"not UTF-8: {error}"]
        return [row for number in range(batch.num_rows) for row in _values(batch.slice(number, 1))]


def folder_images(folder: str | Path, limit: int = 0) -> list[Path]:
    """The images of a folder: those that its list names, or without one those in it and below it.

    Lists are captions.jsonl and the metadata files of the image-folder convention, also those of folders below.

    Args:
        folder: The folder.
        limit: Most images, spread evenly over all; 0 for all of them.

    Returns:
        Each once, in order. Lines that are no JSON, and that name no image, are passed over.

    Raises:
        ValueError: It is no folder, or has neither a list nor images.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"input {folder} is not a folder")
    lists = [name for name in LISTS if Path(folder, name).is_file()]
    listing = list_folder(folder, prune=CAPTIONS_FILE not in lists)
    paths = [] if lists else [Path(folder, image.name) for image in listing.images()]
    named = (path for name in (*lists, *listing.lists) for path in _named_images(Path(folder, name)))
    paths = list(dict.fromkeys((*paths, *named)))
    if not paths and not lists:
        raise ValueError(f"input {folder} has no {CAPTIONS_FILE} and no images")
    if limit and len(paths) > limit:
        return [paths[number * len(paths) // limit] for number in range(limit)]
    return paths


def _named_images(path: Path) -> Iterator[Path]:
    names = ("image", *file_name_columns(BuildOptions()))
    for row in _rows(path):
        for name in names:
            if isinstance(value := row.get(name), str) and value:
                yield path.parent / value
                break


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Whatever rows of a list can be read."""
    if path.suffix != ".jsonl":
        rows = _csv_rows(str(path)) if path.suffix == ".csv" else _parquet_rows(str(path))
        yield from (row for _, row in rows if isinstance(row, dict))
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield parse_json(line.decode("utf-8-sig"))
            except (Refused, UnicodeDecodeError):
                continue
