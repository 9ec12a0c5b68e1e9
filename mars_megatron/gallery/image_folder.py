"""The folder that images are written to: PNG files, a manifest of what made each, a contact sheet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mars_megatron.files.writing import complete
from mars_megatron.gallery.sheet import image_grid

MANIFEST, SHEET, IMAGES, LOW, CODES = "manifest.jsonl", "sheet.png", "images", "low", "codes"
SHEET_ROWS, SHEET_COLUMNS = 64, 16  # prompts and images of each that a contact sheet shows
# Of a line: what tells where a model lies, not what it is.
_PLACES = ("checkpoint", "path")
# What a line is read for.
_NEEDED = (
    *("file", "prompt", "seed", "candidates", "settings", "resolution", "model", "super_resolution"),
    *("pixels", "batch", "layout"),
)
Line = dict[str, Any]


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write a PNG file, which appears under its name only when it is complete."""
    path = Path(path)
    with complete(path, durable=False) as temporary:
        image.save(temporary, format="PNG")
    return path


class ImageFolder:
    """images/*.png, and manifest.jsonl with a line for each of them.

    Beside it low/*.png, the low-resolution images of a cascade, and codes/*.npz, where asked for. A line is written
    when all files of its image are there.

    Args:
        path: The folder; made when something is written.
        keep_low: Whether low-resolution images are written.
        save_codes: Whether codes are.
    """

    def __init__(self, path: str | Path, keep_low: bool = False, save_codes: bool = False) -> None:
        self.path, self.keep_low, self.save_codes = Path(path), keep_low, save_codes

    def read(self, wanted: Mapping[str, Line]) -> list[Line]:
        """The lines of the manifest, in their order; none where there is no manifest.

        Args:
            wanted: By file, what the line of each image shall have.

        Raises:
            ValueError: A line is damaged, or not as wanted.
        """
        manifest = self.path / MANIFEST
        lines = read_manifest(manifest) if manifest.is_file() else []
        for line in lines:
            file = line["file"]
            if file not in wanted:
                raise ValueError(
                    f"{self.path} holds {file}, which is not asked for; accepted: the images from before, perhaps with "
                    "more behind them, or another folder"
                )
            differences = differences_of(line, wanted[file])
            if differences:
                raise ValueError(
                    f"{self.path} holds {file} of other settings ({', '.join(differences)}); accepted: those, or "
                    "another folder"
                )
        return lines

    def is_complete(self, file: str) -> bool:
        """Whether all files of an image are there."""
        return all(path.is_file() for path in self._paths(file))

    def write(self, file: str, image: torch.Tensor, low: torch.Tensor | None, codes: Mapping[str, np.ndarray]) -> None:
        """Write the files of an image: uint8 [height, width, 3], that of low resolution, and codes by name."""
        save_image(Image.fromarray(image.numpy()), self.path / file)
        if self.keep_low:
            assert low is not None
            save_image(Image.fromarray(low.numpy()), self._low(file))
        if self.save_codes:
            with complete(self._codes(file), durable=False) as temporary, temporary.open("wb") as opened:
                np.savez_compressed(opened, **codes)  # type: ignore[arg-type]

    def add(self, lines: Sequence[Line]) -> None:
        """Write the lines of images whose files are there."""
        manifest = self.path / MANIFEST
        whole = manifest.read_bytes() if manifest.is_file() else b""
        with manifest.open("r+b" if manifest.is_file() else "wb") as opened:
            # What is behind the last end of a line was being written when a run was interrupted.
            opened.truncate(whole.rfind(b"\n") + 1)
            opened.seek(0, os.SEEK_END)
            opened.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())

    def write_sheet(self, rows: Sequence[tuple[str, Sequence[str]]], path: str | Path | None = None) -> Path:
        """Write a picture of the images, a row for each prompt; of very many, the first.

        Args:
            rows: Prompt and files of each row.
            path: PNG file; None takes sheet.png in the folder.
        """
        shown = [(prompt, files[:SHEET_COLUMNS]) for prompt, files in rows[:SHEET_ROWS]]
        pictures = [np.stack([self._pixels(file) for file in files]) for _, files in shown]
        return save_image(image_grid(pictures, [prompt for prompt, _ in shown]), path or self.path / SHEET)

    def _pixels(self, file: str) -> np.ndarray:
        with Image.open(self.path / file) as image:
            return np.asarray(image)

    def _paths(self, file: str) -> list[Path]:
        low, codes = [self._low(file)] * self.keep_low, [self._codes(file)] * self.save_codes
        return [self.path / file, *low, *codes]

    def _low(self, file: str) -> Path:
        return self.path / LOW / Path(file).name

    def _codes(self, file: str) -> Path:
        return self.path / CODES / Path(file).with_suffix(".npz").name


def read_manifest(path: str | Path) -> list[Line]:
    """The lines of a manifest; one whose writing was interrupted is left out.

    Raises:
        ValueError: The file is missing, or a line is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the {MANIFEST} of generated images")
    lines = []
    # Bytes: an interrupted line may end within a character.
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not JSON: {error}") from error
        lacks = [name for name in _NEEDED if name not in line] if isinstance(line, dict) else _NEEDED
        if lacks:
            raise ValueError(f"{path} line {number} is not of a manifest: it has no {', '.join(lacks)}")
        lines.append(line)
    return lines


def pixel_fingerprint(image: torch.Tensor) -> str:
    """A short name of the pixels of an image, uint8 [height, width, 3]."""
    return hashlib.sha256(repr(tuple(image.shape)).encode() + image.numpy().tobytes()).hexdigest()[:24]


def differences_of(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Where what was found is not as wanted, in words; what only the found one has, and places, do not count."""
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return [] if found == wanted else [f"{name} was {_short(found)}, is {_short(wanted)}"]
    names = [key for key in wanted if key not in _PLACES]
    return [
        text for key in names for text in differences_of(found.get(key), wanted[key], f"{name}.{key}" if name else key)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
