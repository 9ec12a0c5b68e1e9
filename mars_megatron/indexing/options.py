"""The options of an index build."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

DEFAULT_CAPTIONS = ("captions", "caption")
# Weights of captions, and their products, that float32 holds with all of its digits.
WEIGHTS = (1e-30, 1e30)
FITS = ("crop", "stretch", "centre")
# How an index is made, not what is in it.
_NOT_IN_SETTINGS = ("batch_size", "workers", "shard", "strict", "overwrite")
# Settings without effect on an index of text alone.
_OF_IMAGES = ("fit", "max_pixels", "max_bytes", "min_side", "low_resolution")


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_index`.

    Args:
        resolution: Height and width that images are brought to, in pixels; 0 without images.
        low_resolution: The same of a second, smaller version of each captioned image; 0 for none.
        fit: "crop" (shorter side to the resolution, centre kept), "stretch" (both sides) or "centre" (cut out at the
            centre without scaling where the image is large enough, else like crop).
        captions: (field, weight) of the JSON keys and parquet columns that hold captions; weight None where all of a
            sample's captions count the same.
        image_column: Parquet column of the image.
        low_column: Parquet column of the low-resolution image.
        text_column: Parquet column of texts without image.
        parts_column: Parquet column of interleaved documents.
        batch_size: Images encoded at once.
        workers: Processes that read texts and images; 0 does it in this process.
        shard: (I, N): only inputs I, I + N, I + 2N, ...; None for all of them.
        strict: The first thing that would be left out is an error.
        overwrite: Replace an index of other inputs or settings.
        max_caption_tokens: Longer captions are dropped.
        max_text_tokens: Longer texts, and documents with a longer part, are left out.
        max_pixels: Images of more pixels are left out, unread.
        max_bytes: Images of more bytes are left out, unread.
        min_side: Images of a shorter side are left out, in pixels.
        allow_outside: JSONL may name images outside of its folder.

    Raises:
        ValueError: A value is not possible; the message names it.
    """

    resolution: int = 0
    low_resolution: int = 0
    fit: str = "crop"
    captions: tuple[tuple[str, float | None], ...] = tuple((name, None) for name in DEFAULT_CAPTIONS)
    image_column: str = "image"
    low_column: str = "low"
    text_column: str = "text"
    parts_column: str = "parts"
    batch_size: int = 64
    workers: int = len(os.sched_getaffinity(0))
    shard: tuple[int, int] | None = None
    strict: bool = False
    overwrite: bool = False
    max_caption_tokens: int = 1024
    max_text_tokens: int = 4096
    max_pixels: int = 89_478_485
    max_bytes: int = 256 << 20
    min_side: int = 2
    allow_outside: bool = False

    def __post_init__(self) -> None:
        least = {"resolution": 0, "low_resolution": 0, "batch_size": 1, "workers": 0, "max_caption_tokens": 1,
                 "max_text_tokens": 1, "max_pixels": 1, "max_bytes": 1, "min_side": 1}  # fmt: skip
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name.replace('_', ' ')} is {getattr(self, name)}; it must be at least {minimum}")
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}; it must be one of {', '.join(FITS)}")
        if self.low_resolution and self.low_resolution >= self.resolution:
            raise ValueError(
                f"low resolution is {self.low_resolution}; it must be below the resolution, {self.resolution}"
            )
        names = [name for name, _ in self.captions]
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"captions are {names}; they must be names, each once")
        for name, weight in self.captions:
            if weight is not None and not WEIGHTS[0] <= weight <= WEIGHTS[1]:
                raise ValueError(
                    f"captions: the weight of {name} is {weight}; it must be a number above 0, from {WEIGHTS[0]} to "
                    f"{WEIGHTS[1]}"
                )
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"shard is {self.shard[0]}/{self.shard[1]}; it must be I/N with 0 <= I < N")

    def settings(self) -> dict[str, Any]:
        """What decides the contents of an index beside its sources and tokenizers, as JSON has it."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_IN_SETTINGS}
        if not self.resolution:
            values = {name: value for name, value in values.items() if name not in _OF_IMAGES}
        values["captions"] = [list(pair) for pair in self.captions]
        return values


def parse_captions(fields: list[str]) -> tuple[tuple[str, float | None], ...]:
    """("dense=3", "short") -> (("dense", 3.0), ("short", None)).

    Raises:
        ValueError: A weight is no number.
    """
    pairs: list[tuple[str, float | None]] = []
    for field in fields:
        name, equals, weight = field.partition("=")
        try:
            pairs.append((name, float(weight) if equals else None))
        except ValueError:
            raise ValueError(f"captions: {field!r} must be FIELD or FIELD=WEIGHT, with a number above 0") from None
    return tuple(pairs)


def parse_shard(shard: str | None) -> tuple[int, int] | None:
    """ "1/4" -> (1, 4).

    Raises:
        ValueError: It is no such pair.
    """
    if shard is None:
        return None
    number, slash, count = shard.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal():
        raise ValueError(f"shard is {shard!r}; it must be I/N with 0 <= I < N, such as 0/4")
    return int(number), int(count)
