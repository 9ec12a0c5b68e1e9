"""The text that a tokenizer is trained on: every line is used, or counted with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mars_megatron.files.plain_text import other_encoding

# Bytes of the longest line that SentencePiece takes (its max_sentence_length); it passes over longer ones.
LIMIT = 4192
# U+2585, which SentencePiece needs for itself: it passes over lines that hold it.
RESERVED = "\u2585".encode()
# Where a long line is cut: behind the last space of its second half, else behind the last mark there.
_PLACES = (
    re.compile(rb".*(?:\s|\xe3\x80\x80)", re.DOTALL),
    re.compile(rb".*(?:[.,;:!?]|\xe3\x80[\x81\x82]|\xef\xbc[\x81\x8c\x9a\x9b\x9f])", re.DOTALL),
)


@dataclass
class TrainingText:
    """What is in a file of sentences, one on each line.

    Attributes:
        path: The file.
        lines: Lines in all.
        empty: Those without a character that is not a space; they are no sentences.
        long: Those of more than LIMIT bytes; they are cut.
        reserved: Those with U+2585; they are cut there, and the character is not learned.
        nul: Those with NUL characters; they are read as spaces.
        not_utf8: Those with bytes that are not UTF-8; they are left out (of long ones the parts with such bytes).
        first_not_utf8: Number of the first of these, from 1; 0 without any.
    """

    path: Path
    lines: int = 0
    empty: int = 0
    long: int = 0
    reserved: int = 0
    nul: int = 0
    not_utf8: int = 0
    first_not_utf8: int = 0

    @classmethod
    def read(cls, path: str | Path) -> TrainingText:
        """Look at every line, holding no more than one part of a line at a time.

        Raises:
            ValueError: The file does not exist, is not UTF-8 text, or has no line to learn from.
        """
        text = cls(Path(path))
        if not text.path.is_file() or not text.path.stat().st_size:
            raise ValueError(f"text {path} does not exist or is empty; give a UTF-8 file with one sentence per line")
        with text.path.open("rb") as file:
            start = file.read(1 << 16)
        other = other_encoding(start) or ("UTF-16" if 4 * start.count(0) >= len(start) else None)
        if other is not None:
            raise ValueError(
                f"text {path} is not UTF-8: it looks like {other}; convert it with `iconv -f {other} -t UTF-8`"
            )
        if not sum(1 for _ in text._parts()):
            raise ValueError(f"text {path} has no line to learn from: {'; '.join(text.notes())}")
        return text

    @property
    def is_plain(self) -> bool:
        """Whether SentencePiece, reading the file itself, uses every line as it is."""
        return not (self.long or self.reserved or self.not_utf8)

    def sentences(self) -> Iterator[bytes]:
        """What is to be learned from, in parts that SentencePiece takes: at most LIMIT bytes of UTF-8 each."""
        return TrainingText(self.path)._parts()

    def notes(self) -> list[str]:
        """What became of the lines that are not sentences as they stand."""
        where = f"the first is line {self.first_not_utf8}"
        counted = (
            (self.empty, "empty"),
            (self.long, f"longer than {LIMIT} bytes, cut at spaces, at marks, or between characters"),
            (self.reserved, "with U+2585, which SentencePiece needs for itself, cut there"),
            (self.nul, "with NUL characters, read as spaces"),
            (self.not_utf8, f"not UTF-8, left out; {where}"),
        )
        return [f"{number} of {self.lines} lines {what}" for number, what in counted if number]

    def _parts(self) -> Iterator[bytes]:
        """The parts to learn from; counts the lines on the way."""
        with self.path.open("rb") as file:
            while part := file.readline(LIMIT + 1):
                self.lines += 1
                if part.endswith(b"\n") or len(part) <= LIMIT:
                    yield from self._line([part.removesuffix(b"\n")])
                    continue
                self.long += 1
                yield from self._line(_cut(part, file.readline))

    def _line(self, parts: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
        empty, nul, reserved, not_utf8 = True, False, False, False
        for part in parts:
            try:
                text = part.decode()
            except UnicodeDecodeError:
                not_utf8 = True
                continue
            if not text or text.isspace():
                continue
            empty = False
            nul |= b"\0" in part
            reserved |= RESERVED in part
            yield from (piece for piece in part.split(RESERVED) if piece.strip())
        self.empty += empty and not not_utf8
        self.nul += nul
        self.reserved += reserved
        self.not_utf8 += not_utf8
        if not_utf8 and not self.first_not_utf8:
            self.first_not_utf8 = self.lines


def _cut(part: bytes, more: Callable[[int], bytes]) -> Iterator[bytes]:
    """A line in parts of at most LIMIT bytes.

    Args:
        part: Its beginning, longer than that.
        more: Reads at most a number of further bytes of it; its end is a newline, or nothing.
    """
    rest, ended = part, False
    while not ended or len(rest) > LIMIT:
        if len(rest) > LIMIT:
            place = _place(rest)
            yield rest[:place]
            rest = rest[place:]
        else:
            part = more(LIMIT + 1)
            ended = part.endswith(b"\n") or not part
            rest += part.removesuffix(b"\n")
    yield rest


def _place(line: bytes) -> int:
    """Where to cut a line of more than LIMIT bytes: at most LIMIT, and never within a character."""
    for pattern in _PLACES:
        if found := pattern.match(line, LIMIT // 2, LIMIT):
            return found.end()
    place = LIMIT
    while place > LIMIT - 4 and line[place] & 0xC0 == 0x80:  # within a character of several bytes
        place -= 1
    return place if line[place] & 0xC0 != 0x80 else LIMIT  # no UTF-8
