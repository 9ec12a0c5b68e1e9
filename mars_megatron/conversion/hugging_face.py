"""The tensors of a Hugging Face folder: safetensors or .bin, in one file or many."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mars_megatron.checkpoint.tensors import TensorInfo
from mars_megatron.conversion.other_models import what_tensors
from mars_megatron.files.foreign import PLAIN_WEIGHTS, unfinished
from mars_megatron.files.weights import check_numbers, what_instead

# What unpickling raises of a damaged file, beside its own error.
_DAMAGE = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error)
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class HuggingFaceFiles:
    """Every tensor of a folder, or of one safetensors file.

    Files are opened anew for each tensor, so that what was read does not stay in memory.

    Args:
        path: The folder, or a .safetensors file.

    Raises:
        ValueError: There are no weights, a shard is missing or cut off, or the index names what no shard has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_of: dict[str, Path] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._checked: set[str] = set()
        for file, wanted in _files(path):
            found = dict(_contents(file))
            missing = sorted(wanted - found.keys())
            if missing:
                raise ValueError(f"{file} lacks {missing[0]} and {len(missing) - 1} more, which the index places in it")
            self.tensors.update(found)
            self._file_of.update(dict.fromkeys(found, file))

    def where(self, name: str) -> Path:
        """The file that has a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> Tensor:
        """The whole tensor; memory is that of the file (mapped) while it lives.

        Raises:
            ValueError: The file cannot be read any more, or a value is no number.
        """
        file = self._file_of[name]
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(name)
        else:
            tensor = _load_pickle(file)[name]
        if name not in self._checked:  # many are asked for more than once
            check_numbers(tensor, name, file)
            self._checked.add(name)
        return tensor


def _files(path: Path) -> Iterator[tuple[Path, set[str]]]:
    """Every file with the tensors that the index places in it."""
    if path.is_file():
        yield path, set()
        return
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give a Hugging Face model folder")
    found = next((path / name for name in PLAIN_WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise ValueError(f"{path} holds no weights: none of {', '.join(PLAIN_WEIGHTS)}")
    if found.suffix != ".json":
        yield found, set()
        return
    by_file: dict[str, set[str]] = {}
    for name, file in _weight_map(found).items():
        by_file.setdefault(file, set()).add(name)
    for file, names in sorted(by_file.items()):
        if Path(file).name != file:
            raise ValueError(f"{found} names {file!r}; accepted: files beside it")
        if not (path / file).is_file():
            raise ValueError(
                f"{path / file} is missing; {found.name} places {len(names)} tensors in it, such as {min(names)}"
                f"{unfinished(path)}"
            )
        yield path / file, names


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        weight_map: dict[str, str] = content["weight_map"]
        if not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError("a place is no file name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = what_instead(index, may_be_text=True) or error
        raise ValueError(f"{index} is not an index of shards (JSON with a weight_map): {cause}") from error
    return weight_map


def _contents(file: Path) -> Iterator[tuple[str, TensorInfo]]:
    instead = what_instead(file)
    if instead:
        raise ValueError(instead)
    if file.suffix != ".safetensors":
        for name, tensor in _load_pickle(file).items():
            yield name, TensorInfo(tuple(tensor.shape), tensor.dtype)
        return
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                part = opened.get_slice(name)
                if part.get_dtype() not in _DTYPES:
                    raise ValueError(
                        f"{file}: {name} is of type {part.get_dtype()}; accepted: {', '.join(_DTYPES)} (a quantised "
                        f"model must be converted back first){what_tensors(opened.keys())}"
                    )
                yield name, TensorInfo(tuple(part.get_shape()), _DTYPES[part.get_dtype()])
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read, it may be cut off: {error}") from error


def _load_pickle(file: Path) -> dict[str, Tensor]:
    """A .bin file; only tensors are unpickled, nothing is executed."""
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        raise ValueError(f"{file} cannot be read as tensors (weights_only), it may be cut off: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} holds no state dict: accepted is a dictionary of tensors")
    return content


def _is_zip(file: Path) -> bool:
    """Whether torch can map the file; torch before 1.6 wrote another format, which is read whole."""
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"
