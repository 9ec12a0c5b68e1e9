"""The manifest beside an index: what is in it, and with which tokenizers it was made."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TextTokenizerInfo:
    """The text tokenizer of an index.

    Args:
        path: Where it lay when the index was made.
        fingerprint: sha256 of its files.
        size: Number of ids.
        eos_id: End-of-text id.
        bos_id: Begin-of-text id, if it has one.
    """

    path: str
    fingerprint: str
    size: int
    eos_id: int
    bos_id: int | None


@dataclass(frozen=True)
class ImageTokenizerInfo:
    """The image tokenizer of an index.

    Args:
        path: Where it lay when the index was made.
        fingerprint: sha256 of its files.
        codebook_size: Number of codes.
        grid: Rows and columns of codes per image.
        resolution: Height and width of the encoded images, in pixels.
    """

    path: str
    fingerprint: str
    codebook_size: int
    grid: tuple[int, int]
    resolution: int


@dataclass(frozen=True)
class Manifest:
    """Contents of PREFIX.json; written last, so that an index without it is not complete.

    Args:
        num_image_documents: Image documents (captions and codes).
        num_text_documents: Text documents.
        tokens: Number of tokens by modality, keys text and visual.
        text_tokenizer: The text tokenizer.
        image_tokenizer: The image tokenizer; None for an index of text alone.
        skipped: Number of samples left out, by reason.
        source: The input folder.
        num_documents: Their sum.
        format_version: Version of the layout.
    """

    num_image_documents: int
    num_text_documents: int
    tokens: dict[str, int]
    text_tokenizer: TextTokenizerInfo
    image_tokenizer: ImageTokenizerInfo | None
    skipped: dict[str, int] = field(default_factory=dict)
    source: str = ""
    num_documents: int = 0
    format_version: int = FORMAT_VERSION

    def write(self, path: Path) -> None:
        """Write to a temporary name, then rename."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)

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
            raise ValueError(f"{path} has format version {version}; this version reads {FORMAT_VERSION}")
        try:
            image = values.pop("image_tokenizer")
            if image is not None:
                image = ImageTokenizerInfo(**{**image, "grid": tuple(image["grid"])})
            text = TextTokenizerInfo(**values.pop("text_tokenizer"))
            return cls(text_tokenizer=text, image_tokenizer=image, **values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a manifest of format {FORMAT_VERSION}: {error!r}") from error
