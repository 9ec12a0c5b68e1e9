"""Telling files, and what they hold, apart by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20  # bytes, read at once
_WHOLE = 1 << 22  # bytes; a larger file may be sampled by three pieces
_PIECE = 1 << 20


def file_sha256(path: str | Path) -> str:
    """sha256 (hex) of a file."""
    digest = hashlib.sha256()
    _add_file(digest, Path(path))
    return digest.hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """sha256 (hex) of the names, sizes and contents of files, in the order given; not of the folder they lie in."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _add_file(digest, path)
    return digest.hexdigest()


def value_fingerprint(value: Any) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def content_fingerprint(path: str | Path, *, sampled: bool = True) -> str:
    """A short name of a file, or of all files of a folder; copies have the same.

    Args:
        path: The file or folder.
        sampled: Of files above 4 MiB the size and a MiB at the beginning, in the middle and at the end are enough:
            those of a checkpoint differ everywhere when they differ. False for what may differ in one place alone.

    Raises:
        ValueError: There is nothing.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} is not there")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{len(name.encode())} {name} {size}".encode())
        if size <= _WHOLE or not sampled:
            _add_file(digest, file)
            continue
        with file.open("rb") as opened:
            for start in (0, size // 2, size - _PIECE):
                opened.seek(start)
                digest.update(opened.read(_PIECE))
    return digest.hexdigest()[:24]


def _add_file(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
