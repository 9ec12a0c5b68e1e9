"""Folders and files that get their name only when they are complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mars_megatron.files.writing import sync, sync_file

INCOMPLETE = ".incomplete"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends without an error, and else goes away.

    What an interrupted conversion left is removed first.

    Raises:
        ValueError: `target` exists and is not an empty folder.
    """
    target = target.resolve()
    if target.is_mount():
        raise ValueError(f"{target} is a mount point, which cannot be replaced; name a folder in it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; name another or remove it")
    temporary = target.with_name(target.name + INCOMPLETE)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync(temporary)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary)
        raise


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A file name to write to, which becomes `target` when the block ends without an error.

    Raises:
        ValueError: `target` exists.
    """
    if target.exists():
        raise ValueError(f"{target} exists; name another file or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + INCOMPLETE)
    try:
        yield temporary
        sync_file(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(target)
