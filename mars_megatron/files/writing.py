"""Files and folders that get their name when they are complete, reach the disk, and are named when that fails."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"  # behind the name of a file that is being written
INCOMPLETE = ".incomplete"  # behind that of a folder, or of a file that must not replace another
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # of a folder, on file systems without it
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def complete(path: Path, *, unique: bool = False, durable: bool = True, ending: str = TEMPORARY) -> Iterator[Path]:
    """A name beside `path` to write a file to, which becomes `path` when the block ends without an error.

    Args:
        path: The file; its folder is made. What is there stays until the new one is complete.
        unique: The name is like no other, for a file that several processes may write at the same time.
        durable: Its content is on the disk before it gets its name. False is for many small files that can be made
            again.
        ending: Of the name.

    Raises:
        OSError: The disk is full or broken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{path.name}.{uuid.uuid4().hex}" if unique else path.name
    temporary = path.with_name(name + ending)
    try:
        yield temporary
        if durable:
            sync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, unique: bool = False) -> None:
    """Write a file of UTF-8 that is complete whenever it is there; `unique` as for `complete`.

    Raises:
        OSError: The disk is full or broken.
    """
    with complete(path, unique=unique) as temporary:
        temporary.write_bytes(text.encode())


def write_once(path: Path, text: str) -> bool:
    """The same where no file is yet, for several processes at once; its folder exists.

    Returns:
        Whether this process wrote it.

    Raises:
        OSError: The disk is full or broken.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        temporary.write_bytes(text.encode())
        sync_file(temporary)
        os.link(temporary, path)  # fails if it exists, and never shows a part of it
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextmanager
def staged(target: Path, *, replace: bool = False, durable: bool = True) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends without an error, and else goes away.

    What an interrupted process left is removed first.

    Args:
        target: The folder. Where it is an empty folder, that is replaced.
        replace: Also replace one with content, which is removed only after the new one has its name.
        durable: Every file of it is on the disk before it gets its name.

    Raises:
        ValueError: `target` exists and is not an empty folder (without `replace`), or is a mount point.
        OSError: The disk is full or broken.
    """
    target = target.resolve()
    if target.is_mount():
        raise ValueError(f"{target} is a mount point, which cannot be replaced; name a folder in it")
    if not replace and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; name another or remove it")
    temporary, old = (target.with_name(target.name + ending) for ending in (INCOMPLETE, ".old"))
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if durable:
            sync(temporary)
        if target.exists() and replace:
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        elif target.exists():
            target.rmdir()
        try:
            temporary.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # an error here would hide the one that counts
        raise
    if replace:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A name to write a file to that must not be there yet; it becomes `target` when the block ends without an error.

    Raises:
        ValueError: `target` exists.
        OSError: The disk is full or broken.
    """
    if target.exists():
        raise ValueError(f"{target} exists; name another file or remove it")
    with complete(target, ending=INCOMPLETE) as temporary:
        yield temporary


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
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
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
