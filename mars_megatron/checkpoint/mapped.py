"""Tensors of torch.save that lie one after the other in one file, mapped into memory."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

# Of the header before each record of a zip archive: its length, and the lengths of name and extra field behind it.
_HEADER_SIZE = 30
_LENGTHS = struct.Struct("<HH")
_LENGTHS_AT = 26


class _Part(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        wanted = memoryview(buffer)[: max(0, self._length - self._at)]
        self._file.seek(self._offset + self._at)
        number: int = self._file.readinto(wanted)  # type: ignore[attr-defined]
        self._at += number
        return number


def map_tensor(path: Path, offset: int, length: int) -> Tensor:
    """A tensor that torch.save wrote to a part of a file.

    Its memory is that of the file; what is written to the tensor does not reach the file. Where the values are not
    aligned in the file, they are read instead.

    Args:
        path: The file.
        offset: First byte of the part.
        length: Its bytes.

    Raises:
        ValueError: There is no such tensor.
    """
    with path.open("rb") as file:
        part = cast(IO[bytes], _Part(file, offset, length))
        try:
            with torch.serialization.skip_data():  # shape, strides and type alone
                outline: Tensor = torch.load(part, map_location="cpu", weights_only=True)
            start = offset + _values_at(part)
            if start % outline.dtype.itemsize:
                part.seek(0)
                whole: Tensor = torch.load(part, map_location="cpu", weights_only=True)
                return whole
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, StopIteration) as error:
            raise ValueError(f"{path}: no tensor can be read at byte {offset}: {error}") from error
    size = outline.untyped_storage().nbytes()
    if not size:
        return outline
    values = torch.from_numpy(np.memmap(path, np.uint8, "c", start, (size,)))
    tensor = torch.empty(0, dtype=outline.dtype)
    tensor.set_(values.untyped_storage(), outline.storage_offset(), outline.size(), outline.stride())  # type: ignore[call-overload]
    return tensor


def _values_at(part: IO[bytes]) -> int:
    """Where the values of the one tensor of an archive begin."""
    with zipfile.ZipFile(part) as archive:
        record = next(info for info in archive.infolist() if info.filename.endswith("/data/0"))
    part.seek(record.header_offset + _LENGTHS_AT)
    name, extra = _LENGTHS.unpack(part.read(_LENGTHS.size))
    return int(record.header_offset) + _HEADER_SIZE + int(name) + int(extra)
