"""The manifest beside an index: what is in it, and from what and with which tokenizers it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from mars_megatron.files.writing import write_text
from mars_megatron.index.modes import KINDS

FORMAT_VERSION = 2
_KNOWN_KEYS = {"documents": KINDS, "tokens": ("text", "visual"), "unknown": ("texts", "tokens")}
_POSITIVE = ("size", "codebook_size", "grid", "low_grid")
_types: Callable[[type], dict[str, Any]] = lru_cache(get_type_hints)


@dataclass(frozen=True)
class TextTokenizerInfo:
    """The text tokenizer of an index.

    Args:
        path: Where it lay when the index was made.
        fingerprint: sha256 of its files.
        size: Every id of it lies below.
        eos_id: End-of-text id.
        bos_id: Begin-of-text id, if it has one.
        content: sha256 of what decides the ids, the same in every copy; empty in indices made before the file of a
            tokenizer folder was read as it is (`tokenizers.former`).
    """

    path: str
    fingerprint: str
    size: int
    eos_id: int
    bos_id: int | None
    content: str = ""


@dataclass(frozen=True)
class ImageTokenizerInfo:
    """The image tokenizer of an index.

    Args:
        path: Where it lay when the index was made.
        fingerprint: sha256 of its files.
        codebook_size: Number of codes.
        grid: Rows and columns of codes of an image.
        resolution: Height and width of the encoded images, in pixels.
        low_grid: The same of the low-resolution image of a pair; None without pairs.
        low_resolution: The same in pixels; 0 without pairs.
    """

    path: str
    fingerprint: str
    codebook_size: int
    grid: tuple[int, int]
    resolution: int
    low_grid: tuple[int, int] | None = None
    low_resolution: int = 0

    @property
    def num_codes(self) -> int:
        """Codes of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_low_codes(self) -> int:
        """Codes of a low-resolution image; 0 without pairs."""
        return self.low_grid[0] * self.low_grid[1] if self.low_grid else 0


@dataclass(frozen=True)
class SourceInfo:
    """One input file.

    Args:
        path: Where it lay.
        num_bytes: Its size.
        modified_ns: Its time of modification, in nanoseconds since 1970; tells cheaply that it is still the same.
        sha256: Of its bytes. Image files that it only names are not covered.
        samples: Samples indexed from it.
        skipped: Samples and files left out, by reason.
        files: Of a folder its files, else the file itself and what lies beside it in a folder that was given: read,
            captions beside an image that is read, and left_out. Empty in older manifests.
        members: The same of the members of a tar file; empty for other files.
        unread: What is there but not read, by kind: keys, columns, members by ending.
    """

    path: str
    num_bytes: int
    modified_ns: int
    sha256: str
    samples: int
    skipped: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Contents of PREFIX.json; written last, so that an index without it is not complete.

    Args:
        documents: Number of documents by kind (index.modes.KINDS); kinds that do not occur may be left out.
        tokens: Number of tokens by modality, keys text and visual.
        text_tokenizer: The text tokenizer.
        image_tokenizer: The image tokenizer; None for an index of text alone.
        skipped: Number of samples and files left out, by reason.
        unknown: Number of texts in which the text tokenizer could not spell something, and of its unknown ids in them,
            keys texts and tokens; empty without any, and where it was not counted.
        sources: The input files, in the order in which they were read.
        settings: What decided the contents beside sources and tokenizers: resolutions, cropping, limits.
        caption_weights: Whether PREFIX.weights.npy belongs to the index.
        sha256: Of the other files of the index, by ending.
        format_version: Version of the layout.
    """

    documents: dict[str, int]
    tokens: dict[str, int]
    text_tokenizer: TextTokenizerInfo
    image_tokenizer: ImageTokenizerInfo | None
    skipped: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    sources: tuple[SourceInfo, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    caption_weights: bool = False
    sha256: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def num_documents(self) -> int:
        """Documents of all kinds."""
        return sum(self.documents.values())

    def summed(self, name: str) -> dict[str, int]:
        """The counts of all sources by key.

        Args:
            name: One of files, members, unread.

        Raises:
            ValueError: They are no counts.
        """
        total: dict[str, int] = {}
        for source in self.sources:
            counts = getattr(source, name)
            if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
                raise ValueError(f"{name} of the source {source.path!r} is {counts!r}; it must be counts")
            for key, count in counts.items():
                total[key] = total.get(key, 0) + count
        return total

    def write(self, path: Path) -> None:
        """Write PREFIX.json, which is complete whenever it is there."""
        write_text(path, self.text())

    def text(self) -> str:
        """What PREFIX.json says."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read PREFIX.json.

        Raises:
            ValueError: The file is missing, is no manifest, or has another format version.
        """
        if not path.is_file():
            raise ValueError(f"{path} is missing: the index is not complete. Make it again with tools/index_data.py")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["format_version"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not the manifest of an index: {error!r}") from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version}; this version reads {FORMAT_VERSION}. Make the index again with "
                "tools/index_data.py"
            )
        try:
            return cls._of(values)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a manifest of format {FORMAT_VERSION}: {error!r}") from error

    @classmethod
    def _of(cls, values: dict[str, Any]) -> Manifest:
        image = values.pop("image_tokenizer")
        if image is not None:
            grids = {name: tuple(image[name]) for name in ("grid", "low_grid") if image.get(name)}
            image = ImageTokenizerInfo(**{**image, **grids})
        text = TextTokenizerInfo(**values.pop("text_tokenizer"))
        sources = tuple(SourceInfo(**source) for source in values.pop("sources"))
        return cls(text_tokenizer=text, image_tokenizer=image, sources=sources, **values)


def manifest_problems(manifest: Manifest) -> Iterator[str]:
    """Values of a manifest that are not of the type or range that they should be."""
    text, image = manifest.text_tokenizer, manifest.image_tokenizer
    parts: list[tuple[str, Any]] = [("", manifest), ("text_tokenizer.", text), ("image_tokenizer.", image)]
    parts += [(f"source {source.path!r}: ", source) for source in manifest.sources]
    for where, part in parts:
        for name, kind in () if part is None else _types(type(part)).items():
            if name in ("text_tokenizer", "image_tokenizer", "sources"):
                continue
            value, known = getattr(part, name), _KNOWN_KEYS.get(name) if part is manifest else None
            if not _fits(value, kind) or not set(value if known else ()) <= set(known or ()):
                keys = f" with the keys {', '.join(known)}" if known else ""
                yield f"{where}{name} is {value!r}; it must be {kind if get_args(kind) else kind.__name__}{keys}"
            elif name in _POSITIVE and value is not None and np.min(value) <= 0:
                yield f"{where}{name} is {value!r}; it must be above 0"
    if isinstance(manifest.tokens, dict) and len(manifest.tokens) < 2:
        yield f"tokens is {manifest.tokens!r}; it must be counts of text and visual"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of the type of a field; numbers of a table are counts."""
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        kind = arguments[1]
        return isinstance(value, dict) and all(
            _fits(entry, kind) and (kind is not int or entry >= 0) for entry in value.values()
        )
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if arguments:
        return any(_fits(value, one) for one in arguments)
    return kind is Any or type(value) is kind or (kind is type(None) and value is None)
