"""JSONL and plain text: this process cuts the file into blocks of whole lines, workers do the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mars_megatron.files.plain_text import BOM
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Problems, Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import (
    decode_utf8,
    other_than_utf8,
    parse_json,
)
from mars_megatron.indexing.sources.naming import NamingRecords
from mars_megatron.indexing.sources.reading import HashedFile

BLOCK = 1 << 18  # bytes of text of one batch
MAX_LINE = 64 << 20  # bytes
_BOM = BOM.encode()


@dataclass(frozen=True)
class Lines:
    """Some whole lines of a file.

    Args:
        file: The file.
        first: Number of the first line, from 1.
        data: The lines.
        json: One JSON object per line; else one text document per line.
        num_bytes: Of the input file.
        metadata: Whether every line is a row of the image-folder convention.
        counts_files: Whether the images that they name are counted.
    """

    file: str
    first: int
    data: bytes
    json: bool
    num_bytes: int
    metadata: bool = False
    counts_files: bool = False

    @property
    def held_bytes(self) -> int:
        return len(self.data)

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        found: list[Sample | Skip] = []
        records = NamingRecords(self.file, options, self.metadata, self.counts_files)
        json, metadata, named = self.json, self.metadata, records.named
        for number, line in enumerate(self._lines(), start=self.first):
            if not line or line.isspace():
                continue
            if named:
                named.clear()
            where = {"file": self.file, "line": number}
            try:
                text = line if isinstance(line, str) else decode_utf8(line)
                if json:
                    fields = parse_json(text)
                    if len(fields) == 1 and type(alone := fields.get("text")) is str and not metadata:
                        found.append(Sample(where, text=alone))  # the most frequent kind by far
                    else:
                        found.append(records.sample(fields, where))
                else:
                    found.append(Sample(where, text=text.rstrip("\r")))
            except Refused as refused:
                found.append(Skip(where, refused.reason, refused.detail, records.files()))
        records.count_keys(unread)
        return found

    def _lines(self) -> Sequence[str | bytes]:
        """The lines, decoded at once if that goes well, without the byte order marks of files that were joined."""
        data = self.data
        if b"\0" in data:  # no text, see decode_utf8
            return [line.removeprefix(_BOM) for line in data.split(b"\n")]
        try:
            lines = data.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            return [line.removeprefix(_BOM) for line in data.split(b"\n")]
        return [line.lstrip(BOM) for line in lines] if _BOM in data else lines

    def split(self) -> Sequence[Work]:
        lines = self.data.split(b"\n")
        return [
            replace(self, first=number, data=line, num_bytes=0)
            for number, line in enumerate(lines, start=self.first)
            if line and not line.isspace()
        ]

    def where(self) -> Where:
        return {"file": self.file, "line": self.first}


def read_lines(
    file: HashedFile, json: bool, batch_size: int, metadata: bool = False, counts_files: bool = False
) -> Iterator[Work]:
    """Cut a file into batches.

    Args:
        file: Read from its start.
        json: Whether it is JSONL.
        batch_size: Most lines of a batch that name images.
        metadata, counts_files: See `Lines`.
    """
    lines = Lines(file.path, 1, b"", json, 0, metadata, counts_files)
    number, rest, too_long = 1, b"", 0
    while block := file.read(BLOCK):
        if number == 1 and not rest and b"\0" in block and (refused := other_than_utf8(block)) is not None:
            yield Problems((Skip({"file": file.path}, refused.reason, refused.detail),), len(block))
            return
        end = block.rfind(b"\n") + 1
        if not end:
            rest, too_long = (b"", too_long + len(rest) + len(block)) if _exceeds(rest, block, too_long) else (
                rest + block, 0)  # fmt: skip
            continue
        if too_long or _exceeds(rest, block[: block.index(b"\n")], 0):
            first_end = block.index(b"\n") + 1
            yield _too_long(file.path, number, too_long + len(rest) + first_end)
            block, end, number, rest, too_long = block[first_end:], end - first_end, number + 1, b"", 0
        data = rest + block[:end]
        rest = block[end:]
        yield from _batches(lines, number, data, batch_size)
        number += data.count(b"\n")
    if too_long:
        yield _too_long(file.path, number, too_long)
    elif rest:
        yield from _batches(lines, number, rest, batch_size)


def _exceeds(rest: bytes, more: bytes, already: int) -> bool:
    return already > 0 or len(rest) + len(more) > MAX_LINE


def _too_long(path: str, number: int, length: int) -> Problems:
    detail = f"a line of {length} bytes; at most {MAX_LINE} are read"
    return Problems((Skip({"file": path, "line": number}, "bad_record", detail),), length)


def _batches(lines: Lines, first: int, data: bytes, batch_size: int) -> Iterator[Lines]:
    # Lines with images come back as pixels, so that fewer of them make a batch. This need not be exact.
    if not lines.json or (b'"image"' not in data and b'file_name"' not in data):
        yield replace(lines, first=first, data=data, num_bytes=len(data))
        return
    parts = data.split(b"\n")
    if not parts[-1]:
        parts.pop()
    for start in range(0, len(parts), batch_size):
        part = b"\n".join(parts[start : start + batch_size])
        yield replace(lines, first=first + start, data=part, num_bytes=len(part) + 1)
