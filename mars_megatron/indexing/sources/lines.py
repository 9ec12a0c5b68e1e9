"""JSONL and plain text: this process cuts the file into blocks of whole lines, workers do the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Problems, Refused, Sample, Skip, Where, Work
from mars_megatron.indexing.sources.fields import decode_utf8, make_sample, parse_json
from mars_megatron.indexing.sources.reading import HashedFile

BLOCK = 1 << 18  # bytes of text of one batch
MAX_LINE = 64 << 20  # bytes
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """Some whole lines of a file.

    Args:
        file: The file.
        first: Number of the first line, from 1.
        data: The lines.
        json: One JSON object per line; else one text document per line.
        num_bytes: Of the input file.
    """

    file: str
    first: int
    data: bytes
    json: bool
    num_bytes: int

    def samples(self, options: BuildOptions) -> list[Sample | Skip]:
        found: list[Sample | Skip] = []
        folder = os.path.dirname(self.file)

        def find_image(name: object) -> str:
            return _find_image(name, folder, options)

        for number, line in enumerate(self._lines(), start=self.first):
            if not line or line.isspace():
                continue
            try:
                text = line if isinstance(line, str) else decode_utf8(line)
                if self.json:
                    where = {"file": self.file, "line": number}
                    fields = parse_json(text)
                    if len(fields) == 1 and type(alone := fields.get("text")) is str:  # the most frequent kind by far
                        found.append(Sample(where, text=alone))
                    else:
                        found.append(make_sample(fields, where, options, find_image))
                else:
                    found.append(Sample({"file": self.file, "line": number}, text=text.rstrip("\r")))
            except Refused as refused:
                found.append(Skip({"file": self.file, "line": number}, refused.reason, refused.detail))
        return found

    def _lines(self) -> Sequence[str | bytes]:
        """The lines, decoded at once if that goes well."""
        try:
            return self.data.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            return self.data.split(b"\n")

    def split(self) -> Sequence[Work]:
        lines = self.data.split(b"\n")
        return [
            Lines(self.file, number, line, self.json, 0)
            for number, line in enumerate(lines, start=self.first)
            if line and not line.isspace()
        ]

    def where(self) -> Where:
        return {"file": self.file, "line": self.first}


def read_lines(file: HashedFile, json: bool, batch_size: int) -> Iterator[Work]:
    """Cut a file into batches.

    Args:
        file: Read from its start.
        json: Whether it is JSONL.
        batch_size: Most lines of a batch that name images.
    """
    number, rest, too_long = 1, b"", 0
    while block := file.read(BLOCK):
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
        if number == 1 and data.startswith(_BOM):
            data = data[len(_BOM) :]
        yield from _batches(file.path, number, data, json, batch_size)
        number += data.count(b"\n")
    if too_long:
        yield _too_long(file.path, number, too_long)
    elif rest:
        data = rest[len(_BOM) :] if number == 1 and rest.startswith(_BOM) else rest
        yield from _batches(file.path, number, data, json, batch_size)


def _exceeds(rest: bytes, more: bytes, already: int) -> bool:
    return already > 0 or len(rest) + len(more) > MAX_LINE


def _too_long(path: str, number: int, length: int) -> Problems:
    detail = f"a line of {length} bytes; at most {MAX_LINE} are read"
    return Problems((Skip({"file": path, "line": number}, "bad_record", detail),), length)


def _batches(path: str, first: int, data: bytes, json: bool, batch_size: int) -> Iterator[Lines]:
    # Lines with images come back as pixels, so that fewer of them make a batch. This need not be exact.
    if not json or (b'"image"' not in data):
        yield Lines(path, first, data, json, len(data))
        return
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for start in range(0, len(lines), batch_size):
        part = b"\n".join(lines[start : start + batch_size])
        yield Lines(path, first + start, part, json, len(part) + 1)


def _find_image(name: object, folder: str, options: BuildOptions) -> str:
    if not isinstance(name, str) or not name or "\0" in name:
        raise Refused("bad_record", f'"image" is {name!r}, not a file name')
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise Refused("invalid_utf8", f"the image name {name!r} has lone surrogates") from None
    path = os.path.normpath(name)
    if not options.allow_outside and (os.path.isabs(path) or path == ".." or path.startswith("../")):
        raise Refused("unsafe_name", f"{name} is outside of the folder of the file (--allow-outside takes it)")
    return os.path.join(folder, path)
