"""An image-text folder: image files, and captions.jsonl with one sample per line.

{"image": "cats/1.png", "captions": ["a cat", "一只猫"]}    several captions
{"image": "cats/2.png", "caption": "another cat"}           one caption
{"text": "a text document"}                                 no image

Other keys of a line are left to other readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CAPTIONS_FILE = "captions.jsonl"


@dataclass(frozen=True)
class Record:
    """One sample, not yet tokenised.

    Args:
        line: Its line in captions.jsonl, from 1.
        texts: The captions, or the one text of a text document.
        image: The image file; None for a text document.
    """

    line: int
    texts: tuple[str, ...]
    image: Path | None


@dataclass(frozen=True)
class SkippedLine:
    """A line that is no sample.

    Args:
        line: Its number, from 1.
        detail: What is wrong with it.
    """

    line: int
    detail: str


class FolderSource:
    """The samples of an image-text folder, in file order.

    Raises:
        ValueError: The folder or its captions.jsonl does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.captions = self.folder / CAPTIONS_FILE
        if not self.folder.is_dir():
            raise ValueError(f"input {folder} is not a folder")
        if not self.captions.is_file():
            raise ValueError(f"input {folder} has no {CAPTIONS_FILE} (one JSON object per line)")

    def __len__(self) -> int:
        """Lines of captions.jsonl, an upper bound of the samples."""
        with self.captions.open("rb") as file:
            return sum(1 for _ in file)

    def __iter__(self) -> Iterator[Record | SkippedLine]:
        with self.captions.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._parse(number, line)

    def images(self, limit: int = 0) -> list[Path]:
        """The image files that the lines name, each once, in file order; with a limit, spread evenly over them."""
        names = dict.fromkeys(record.image for record in self if isinstance(record, Record) and record.image)
        paths = list(names)
        if limit and len(paths) > limit:
            return [paths[i * len(paths) // limit] for i in range(limit)]
        return paths

    def _parse(self, number: int, line: bytes) -> Record | SkippedLine:
        try:
            sample = json.loads(line)
        except ValueError as error:  # also invalid UTF-8
            return SkippedLine(number, f"not JSON: {error}")
        if not isinstance(sample, dict):
            return SkippedLine(number, "not a JSON object")
        if "image" in sample:
            texts = sample["captions"] if "captions" in sample else [sample.get("caption")]
            image = sample["image"]
            if not isinstance(image, str) or not image:
                return SkippedLine(number, '"image" is not a file name')
        else:
            texts, image = [sample.get("text")], None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            wanted = '"captions" (a list of strings) or "caption"' if image else '"image" or "text"'
            return SkippedLine(number, f"no {wanted}")
        return Record(number, tuple(texts), None if image is None else self.folder / image)
