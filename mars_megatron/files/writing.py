"""Files while they are written: on their way to the disk at once, and named when the system refuses them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


class BackgroundSync:
    """Brings files to the disk in another thread, where the system would begin when the last one is written.

    A block that ends without an error waits for all of them.

    Raises:
        OSError: At the end of the block: the disk is full or broken.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sync")
        self._started: list[Future[None]] = []

    def __enter__(self) -> BackgroundSync:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._started:
                future.result()

    def start(self, path: Path) -> None:
        """Begin with what a file holds by now; more may be written to it meanwhile."""
        self._started.append(self._pool.submit(sync_file, path))


def sync_file(path: Path) -> None:
    """Bring one file, or the names in one folder, to the disk.

    Raises:
        OSError: The disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path, "it"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(folder: Path) -> None:
    """Bring every file of a folder to the disk; what is renamed afterwards is complete there too.

    Raises:
        OSError: The disk is full or broken.
    """
    for path in [*folder.rglob("*"), folder]:
        sync_file(path)


@contextmanager
def naming(path: Path, what: str | Callable[[], str]) -> Iterator[None]:
    """Let an error of the system, such as a full disk, say which file was written, and what to it.

    Args:
        path: The file that is written in the block.
        what: What of it, such as the name of a tensor, or a function that tells when it is asked.

    Raises:
        OSError: With the number of the error that it replaces.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save may hide the first behind the second
        found = _system_error(error)
        if found is None or found.filename or found.errno is None:  # it names a file: one that is read
            raise
        name = what if isinstance(what, str) else what()
        raise OSError(found.errno, f"{found.strerror}, while writing {name}", str(path)) from error


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
