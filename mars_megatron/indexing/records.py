"""What travels between the parts of the pipeline: batches of raw records, samples, what is left out, and results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from mars_megatron.indexing.options import BuildOptions

# Reasons that count something dropped from a sample that is kept; every other one counts a sample, or a file of none.
KEPT = frozenset(
    {
        *("empty_caption_dropped", "long_caption_dropped", "null_caption_dropped", "unknown_caption_dropped"),
        *("empty_part_dropped", "unknown_part_dropped"),
    }
)
# Reasons that are no error where nothing may be left out: nobody means the files of a desktop or a version control, or
# a README beside records.
HARMLESS = frozenset({"hidden_file", "system_file", "other_file"})

# Where something came from, such as {"file": "a.jsonl", "line": 3}; what messages and the log say.
Where = dict[str, Any]
# An image, not yet decoded: its bytes, or the path of its file.
Raw = bytes | str


@dataclass(slots=True)
class Files:
    """The files of one record: names in a folder, or the suffixes of members of a tar file.

    Args:
        images: Those of its images.
        captions: Those of its captions.
        unused: Those beside them that are not used.
    """

    images: Sequence[str] = ()
    captions: Sequence[str] = ()
    unused: Sequence[str] = ()


@dataclass(frozen=True)
class Skip:
    """Something left out.

    Args:
        where: What it was.
        reason: One word, counted in the manifest.
        detail: What is wrong with it.
        files: Its files, where they are counted.
    """

    where: Where
    reason: str
    detail: str
    files: Files | None = None


class Refused(Exception):
    """Raised where a record turns out to be unusable, and turned into a `Skip`.

    Args:
        reason: One word.
        detail: What is wrong.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class Sample:
    """One document, not yet tokenised. Exactly one of image, text and parts is there.

    Args:
        where: Where it came from.
        captions: (text, relative weight) of the captions of an image; weight None where none was given.
        image: The image.
        low: Its low-resolution version, where one is given.
        text: The text of a text document.
        parts: (is an image, text or image) of an interleaved document.
        caption_fields: Names of the fields that its captions are from.
        low_unused: Whether it has a low-resolution image that nobody asked for.
        null_captions: How many captions are null, and with that none.
        files: Its files, where they are counted.
    """

    where: Where
    captions: Sequence[tuple[str, float | None]] = ()
    image: Raw | None = None
    low: Raw | None = None
    text: str | None = None
    parts: list[tuple[bool, Raw]] | None = None
    caption_fields: Sequence[str] = ()
    low_unused: bool = False
    null_captions: int = 0
    files: Files | None = None


class Work(Protocol):
    """A batch of raw records on its way to a worker."""

    @property
    def num_bytes(self) -> int:
        """Of the input file, for the progress bar."""

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""

    @property
    def counts_files(self) -> bool:
        """Whether its records say what their files are."""

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        """Read the records; runs in a worker. What is there but not read goes to `unread`, by kind."""

    def split(self) -> Sequence[Work]:
        """The same, one record each."""

    def where(self) -> Where:
        """Where the first record came from."""


@dataclass(frozen=True)
class Problems:
    """Work without records: what the reader of a file itself had to leave out."""

    skips: tuple[Skip, ...]
    num_bytes: int = 0
    unread: tuple[tuple[str, int], ...] = ()
    held_bytes: int = 0
    counts_files: bool = True

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        unread.update(dict(self.unread))
        return list(self.skips)

    def split(self) -> Sequence[Work]:
        return [self]

    def where(self) -> Where:
        return self.skips[0].where if self.skips else {}


@dataclass
class Usage:
    """The use of the files of a batch's records, by name; a name may be in several places.

    Args:
        images: Of the images of samples that are kept.
        captions: Of their captions.
        lost: Of samples that are left out, and those that are not used.
        unread: What is there but not read, by kind: keys, columns, members of a tar file.
    """

    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, files: Files, kept: bool) -> None:
        """The files of one record."""
        if kept:
            self.images += files.images
            self.captions += files.captions
            self.lost += files.unused
        else:
            self.lost += [*files.images, *files.captions, *files.unused]

    def extend(self, other: Usage) -> None:
        """Those of another batch."""
        self.images += other.images
        self.captions += other.captions
        self.lost += other.lost
        self.unread.update(other.unread)


@dataclass
class Done:
    """A batch of documents as `IndexWriter.add` takes it, but for the codes of its images.

    Args:
        text_tokens: int32 [sum of the lengths of text sequences].
        lengths: int32 [S], of all sequences.
        modes: int8 [S].
        sequences: int64 [D], sequences of each document.
        weights: float32 [S]; None where no caption has one.
        images: uint8 [I, resolution, resolution, 3], of the sequences of images, in order.
        lows: uint8 [L, low resolution, low resolution, 3], of those of low-resolution images.
        skips: What was left out.
        caption_fields: Names of all fields that captions were in.
        low_unused: Whether some record has a low-resolution image that nobody asked for.
        usage: The use of files.
        unknown: Texts in which the tokenizer could not spell something, and its unknown ids in them.
    """

    text_tokens: np.ndarray
    lengths: np.ndarray
    modes: np.ndarray
    sequences: np.ndarray
    weights: np.ndarray | None
    images: np.ndarray
    lows: np.ndarray
    skips: list[Skip]
    caption_fields: frozenset[str] = frozenset()
    low_unused: bool = False
    usage: Usage = field(default_factory=Usage)
    unknown: tuple[int, int] = (0, 0)
