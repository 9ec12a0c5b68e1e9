"""Text files that users write: UTF-8, or an error that names the file, the line, and what to do."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BOM = "\ufeff"  # of UTF-8, decoded
# The marks of UTF-32 first: one of them begins as one of UTF-16's.
_OTHER = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def other_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, where a byte order mark at the beginning says so."""
    return next((encoding for encoding, marks in _OTHER.items() if content.startswith(marks)), None)


def read_text(path: str | Path, what: str = "") -> str:
    """The text of a file, every line ended by a newline alone, without a byte order mark.

    Args:
        path: The file.
        what: What messages call it, such as "prompts".

    Raises:
        ValueError: It is not there, is no file, or is not UTF-8 text.
    """
    path = Path(path)
    name = f"{what} {path}".strip()
    if not path.is_file():
        raise ValueError(f"{name} is a folder; give a file" if path.is_dir() else f"{name} does not exist")
    content = path.read_bytes()
    if (encoding := other_encoding(content)) is not None:
        raise ValueError(f"{name} is {encoding}; {_remedy(path, encoding)}")
    if (nul := content.find(b"\0")) >= 0:
        raise ValueError(
            f"{name} line {_line(content, nul)} has a NUL character: it is UTF-16, or no text; "
            f"{_remedy(path, 'UTF-16LE')}"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Counted from behind the mark, if there is one.
        place = error.start + len(content) - len(error.object)
        raise ValueError(
            f"{name} line {_line(content, place)} is not UTF-8 (byte 0x{content[place]:02x}); "
            f"{_remedy(path, 'ENCODING')}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, what: str = "") -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place, "FILE line NUMBER"; errors as for `read_text`.

    Lines end at newlines alone: in JSON a string may hold other ends of lines.
    """
    for number, line in enumerate(read_text(path, what).split("\n"), start=1):
        if line.strip():
            yield f"{path} line {number}", line


def read_json(path: str | Path, what: str = "") -> Any:
    """The value in a JSON file; errors as for `read_text` and `parse_json`."""
    return parse_json(read_text(path, what), f"{what} {path}".strip())


def parse_json(text: str, where: str) -> Any:
    """The value in JSON text whose strings can be written as UTF-8.

    Args:
        text: The text.
        where: What messages call it.

    Raises:
        ValueError: It is not JSON, or has half of a surrogate pair.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if "\\u" in text:  # how JSON can spell what no file can hold
        check_unicode(json.dumps(value, ensure_ascii=False), where)
    return value


def check_unicode(text: str, where: str) -> str:
    """The text, if it can be written as UTF-8: one from a command line, or spelled in JSON, may hold other things.

    Raises:
        ValueError: It cannot; it is named by `where`.
    """
    if not is_unicode(text):
        wrong = next(character for character in text if not is_unicode(character))
        raise ValueError(
            f"{where} is not Unicode text: it has {wrong!a}, a byte that is not UTF-8 or half of a surrogate pair"
        )
    return text


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remedy(path: Path, encoding: str) -> str:
    return f"accepted: UTF-8, as `iconv -f {encoding} -t UTF-8 {path.name}` makes it"


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1
