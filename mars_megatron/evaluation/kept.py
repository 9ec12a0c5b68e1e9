"""Results kept while a suite works, for a run after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import torch

from mars_megatron.files.writing import complete
from mars_megatron.platform.parallel import only_on_rank_0

Item = TypeVar("Item")


class Chunks(Generic[Item]):
    """Results as files, each named by the number of its first one and written by rank 0.

    Args:
        folder: Where they are.
        suffix: Of the files.
        load: Reads a file.
        save: Writes one.
    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        load: Callable[[Path], list[Item]],
        save: Callable[[BinaryIO, Sequence[Item]], None],
    ) -> None:
        self.folder, self._suffix, self._load, self._save = folder, suffix, load, save

    def read(self) -> list[Item]:
        """Those that are there without a gap, in order; on every rank what rank 0 sees."""

        def found() -> list[Item]:
            results: list[Item] = []
            while (path := self._path(len(results))).is_file():
                results += self._load(path)
            return results

        return only_on_rank_0(found)

    def write(self, start: int, results: Sequence[Item]) -> None:
        """Keep the results from number `start` on; a file has its name only when it is complete."""
        if torch.distributed.get_rank() != 0:
            return
        with complete(self._path(start), durable=False) as temporary, temporary.open("wb") as file:
            self._save(file, results)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08d}{self._suffix}"


def kept_codes(folder: Path) -> Chunks[torch.Tensor]:
    """Of int64 tensors of one shape, as NumPy files."""

    def load(path: Path) -> list[torch.Tensor]:
        # Each on its own: a row that is a view is sent to other ranks with all of its file.
        return [row.clone() for row in torch.from_numpy(np.load(path, allow_pickle=False))]

    def save(file: BinaryIO, codes: Sequence[torch.Tensor]) -> None:
        np.save(file, torch.stack(list(codes)).numpy())

    return Chunks(folder, ".npy", load, save)


def kept_values(folder: Path) -> Chunks[Any]:
    """Of plain values, as JSON files, which give every float back to the last bit."""

    def load(path: Path) -> list[Any]:
        values: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        return values

    def save(file: BinaryIO, values: Sequence[Any]) -> None:
        file.write(json.dumps(list(values), ensure_ascii=False).encode())

    return Chunks(folder, ".json", load, save)
