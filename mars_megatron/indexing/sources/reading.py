"""An input file that is hashed and counted while it is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class HashedFile:
    """A file open for reading from its start to its end.

    Args:
        path: The file.

    Attributes:
        position: Bytes read so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._file = Path(path).open("rb", buffering=0)
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        data = self._file.read(size) or b""
        self._digest.update(data)
        self.position += len(data)
        return data

    def starts_with(self, magic: bytes) -> bool:
        """Whether the file begins with these bytes; does not count as reading."""
        return os.pread(self._file.fileno(), len(magic), 0) == magic

    def sha256(self) -> str:
        """sha256 (hex) of the whole file; reads what is left of it."""
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()
