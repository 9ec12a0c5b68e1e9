"""Parquet: this process reads record batches of the columns that matter, workers turn them into samples."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars_megatron.indexing.options import DEFAULT_CAPTIONS, BuildOptions
from mars_megatron.indexing.records import Problems, Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import make_sample

BATCH_BYTES = 8 << 20  # of a batch's columns; it has at least one row
TEXT_ROWS = 2048  # rows of a batch without images
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Rows:
    """Some rows of a file.

    Args:
        file: The file.
        first: Number of the first row, from 0.
        data: Arrow's stream format.
        num_bytes: Share of the file's size.
        low_unused: Whether there is a column of low-resolution images that nobody asked for.
        not_read: Names of the columns that are not read.
    """

    file: str
    first: int
    data: bytes
    num_bytes: int
    low_unused: bool = False
    not_read: tuple[str, ...] = ()
    counts_files: bool = False

    @property
    def held_bytes(self) -> int:
        return len(self.data)

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        names = {
            options.image_column: "image",
            options.low_column: "low",
            options.text_column: "text",
            options.parts_column: "parts",
        }
        captions = {name for name, _ in options.captions}
        found: list[Sample | Skip] = []
        batch = self._batch()
        columns = {}
        for name in batch.schema.names:
            columns[name] = _values(batch.column(name))
        unread.update({f"column {name}": batch.num_rows for name in self.not_read})
        for number in range(batch.num_rows):
            where = {"file": self.file, "row": self.first + number}
            fields: dict[str, Any] = {}
            captions_of: dict[str, Any] = {}
            try:
                for name, values in columns.items():
                    value = values[number]
                    if isinstance(value, Refused):
                        raise value
                    if name in captions:
                        captions_of[name] = value
                    if name in names:
                        fields[names[name]] = value
                sample = make_sample(fields, where, options, _find_image, captions_of)
                sample.low_unused = self.low_unused and sample.image is not None
                found.append(sample)
            except Refused as refused:
                found.append(Skip(where, refused.reason, refused.detail))
        return found

    def split(self) -> Sequence[Work]:
        batch = self._batch()
        return [Rows(self.file, self.first + i, _serialize(batch.slice(i, 1)), 0) for i in range(batch.num_rows)]

    def where(self) -> Where:
        return {"file": self.file, "row": self.first}

    def _batch(self) -> Any:
        import pyarrow as pa

        with pa.ipc.open_stream(self.data) as reader:
            return reader.read_next_batch()


def read_parquet(path: str | Path, options: BuildOptions) -> Iterator[Work]:
    """Read the rows of a file, row group by row group, a few at a time.

    What is damaged is passed on as a problem of the file; for columns that lack see `check_files`.
    """
    size, row = Path(path).stat().st_size, 0
    try:
        names = schema_names(path) or []
        columns = _columns(names, options)
        # known from its name alone: the column is not read
        low_unused = not options.low_resolution and options.low_column in names
        not_read = tuple(name for name in names if name not in columns and name != options.low_column)
        rows = options.batch_size if {options.image_column, options.parts_column} & set(columns) else TEXT_ROWS
        num_rows = 0
        for batch in plain_batches(path, columns, rows):
            num_rows = num_rows or max(_num_rows(path), 1)
            for part in _cut(batch):
                share = size * (row + part.num_rows) // num_rows - size * row // num_rows
                yield Rows(str(path), row, _serialize(part), share, low_unused, not_read)
                row += part.num_rows
    except Refused as refused:
        yield Problems((Skip({"file": str(path), "row": row}, refused.reason, refused.detail),), 0)


def plain_batches(path: str | Path, columns: list[str] | None = None, rows: int = TEXT_ROWS) -> Iterator[Any]:
    """The record batches of a file in parquet's own types, whatever Arrow types they were written from.

    A dictionary that was written as one is restored with every batch, whole and growing: what a batch holds, and the
    time to read a file, would be that of all texts before it. The same holds for the buffers of views.

    Args:
        path: The file.
        columns: Those that are read; None for all.
        rows: Most rows of a batch.

    Raises:
        Refused: unreadable_file.
        OSError: The disk fails.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        # pre_buffer would hold whole row groups
        with pq.ParquetFile(path, metadata=_plain_metadata(path), buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                yield batch
                row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused("unreadable_file", f"damaged from row {row} on: {error}") from error


def _plain_metadata(path: str | Path) -> Any:
    """The metadata of a file without the Arrow schema of whoever wrote it; None where there is no such footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - 8, 0))
        end = file.read(8)
        if len(end) < 8 or end[4:] != _MAGIC or (length := struct.unpack("<I", end[:4])[0]) > size - 12:
            return None
        file.seek(size - 8 - length)
        footer = file.read(length)
    # pyarrow has no option for it; the key of another name is passed over
    footer = footer.replace(b"ARROW:schema", b"ARROW-schema")
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer + end))


def _num_rows(path: str | Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def check_files(paths: Sequence[str], options: BuildOptions) -> None:
    """Compare the columns of files, of which only the ends are read, with the names in the options.

    Files that are damaged are left to `read_parquet`.

    Raises:
        ValueError: A file has neither images, texts nor parts; or lacks a column that was named, not by default; or
            has images, but no captions; or no file has a caption column that was named. The message has the columns.
    """
    caption_names = [name for name, _ in options.captions]
    named_captions = tuple(caption_names) != DEFAULT_CAPTIONS
    found: set[str] = set()
    for path in paths:
        names = schema_names(path)
        if names is None:
            continue
        found |= set(names)
        _check_names(path, names, options)
        if named_captions and options.image_column in names and not set(caption_names) & set(names):
            raise ValueError(
                f"{path} has the columns {', '.join(names)}; wanted is one of --captions {' '.join(caption_names)}"
            )
    lacking = [name for name in caption_names if name not in found]
    if named_captions and lacking and options.image_column in found:
        raise ValueError(
            f"--captions names {', '.join(lacking)}, which none of the parquet files has; their columns are "
            f"{', '.join(sorted(found))}"
        )


def schema_names(path: str | Path) -> list[str] | None:
    """Names of the columns; None where the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return None


def _check_names(path: str, names: list[str], options: BuildOptions) -> None:
    content = {f"--{name}-column": getattr(options, f"{name}_column") for name in ("image", "text", "parts")}
    if not set(content.values()) & set(names):
        wanted = ", ".join(f"{name} ({flag})" for flag, name in content.items())
        raise ValueError(f"{path} has the columns {', '.join(names)}; wanted is one of {wanted}")
    if options.low_resolution:
        content["--low-column"] = options.low_column
    for flag, name in content.items():
        if name not in names and name != flag[2:].removesuffix("-column"):
            raise ValueError(f"{path} has the columns {', '.join(names)}; {flag} is {name}, which is not among them")


def _columns(names: list[str], options: BuildOptions) -> list[str]:
    """Those that are read."""
    used = {options.image_column, options.text_column, options.parts_column, *(name for name, _ in options.captions)}
    if options.low_resolution:
        used.add(options.low_column)
    return [name for name in names if name in used]


def _cut(batch: Any) -> Iterator[Any]:
    """Halve a batch until its parts are small enough."""
    if batch.num_rows <= 1 or batch.nbytes <= BATCH_BYTES:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from _cut(batch.slice(0, half))
    yield from _cut(batch.slice(half))


def _serialize(batch: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _values(column: Any) -> list[Any]:
    """A column as Python values; Refused in place of those that are no UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(column[number]) for number in range(len(column))]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return Refused("invalid_utf8", str(error))


def _find_image(value: Any) -> bytes:
    """Bytes, or the bytes of Hugging Face's struct of bytes and path."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    if isinstance(value, dict) and "bytes" in value and content is None:
        raise Refused("missing_image", f"the image {value.get('path')!r} is not in the file")
    raise Refused("bad_record", f"the image is {type(value).__name__}, neither bytes nor a struct with bytes")
