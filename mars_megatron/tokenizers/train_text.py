"""Training a SentencePiece text tokenizer on a text file: every line is used, or counted with a reason."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from mars_megatron.files.plain_text import other_encoding
from mars_megatron.files.writing import complete
from mars_megatron.tokenizers.text import SentencePieceTokenizer

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
        """Lines that tell how many lines were split, cut, empty or not UTF-8."""
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


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=3)


def train_text_tokenizer(
    text: str | Path,
    output: str | Path,
    *,
    vocab_size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    character_coverage: float = 1.0,
    symbols: Sequence[str] = (),
    at_most: bool = False,
    say: Callable[[str], None] = _warn,
) -> SentencePieceTokenizer:
    """Train a SentencePiece model and write it under its name only when it is complete.

    The ids are 0 unknown, 1 begin of sentence, 2 end of sentence, then the pieces.

    Args:
        text: UTF-8 file, one sentence per line, of any length.
        output: The .model file; its folder is made, a file there is replaced.
        vocab_size: Number of ids.
        model_type: How pieces are chosen: unigram language model, or byte-pair encoding.
        character_coverage: Share of the text's characters that get a piece; 0.9995 for languages of many
            characters where rare ones may become unknown.
        symbols: Strings that always are one piece of their own.
        at_most: Take fewer ids where the text does not give vocab_size of them, instead of raising.
        say: Is told of lines that are empty, cut or left out; see `TrainingText`. By default these are warnings.

    Returns:
        The tokenizer, opened from the file.

    Raises:
        ValueError: The file does not exist, is empty or not UTF-8 text, or a setting does not fit it.
    """
    output = Path(output)
    if not 0.9 <= character_coverage <= 1.0:
        raise ValueError(f"character coverage is {character_coverage}; it must lie in 0.9..1")
    if any("," in symbol or not symbol for symbol in symbols):
        raise ValueError(f"symbols are {list(symbols)}; none may be empty or hold a comma")
    found = TrainingText.read(text)
    for note in found.notes():
        say(f"{text}: {note}")
    # The file itself where it can be: the model then is what SentencePiece's own tools make of it, byte for byte.
    source = {"input": str(text)} if found.is_plain else {"sentence_iterator": found.sentences()}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            **source,
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=character_coverage,
            user_defined_symbols=",".join(symbols),
            hard_vocab_limit=not at_most,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:  # says which size would do
        raise ValueError(f"no tokenizer of {vocab_size} ids from {text}: {error}") from error
    with complete(output) as temporary:
        temporary.write_bytes(model.getvalue())
    return SentencePieceTokenizer(output)
