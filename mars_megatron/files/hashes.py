"""Telling models and other files apart by what is in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

_WHOLE = 1 << 22  # bytes; a larger file may be sampled by three pieces
_PIECE = 1 << 20


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
        with file.open("rb") as opened:
            if size <= _WHOLE or not sampled:
                while piece := opened.read(_WHOLE):
                    digest.update(piece)
                continue
            for start in (0, size // 2, size - _PIECE):
                opened.seek(start)
                digest.update(opened.read(_PIECE))
    return digest.hexdigest()[:24]
