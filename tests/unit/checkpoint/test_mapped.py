"""Tensors mapped from the middle of a file are those that were saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mars_megatron.checkpoint.mapped import map_tensor

TENSORS = {
    "fp32": torch.randn(100, 7),
    "transposed": torch.randn(5, 6).t(),
    "bf16": torch.randn(33).bfloat16(),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "view": torch.randn(10, 4)[3:5],
    "int64": torch.arange(12).view(3, 4),
    "large": torch.randn(700, 300),
}


@pytest.mark.parametrize("before", [0, 1, 4, 64])
def test_parts_of_a_file(tmp_path: Path, before: int) -> None:
    path, places = tmp_path / "file", {}
    with path.open("wb") as file:
        file.write(b"x" * before)
        for name, tensor in TENSORS.items():
            begin = file.tell()
            torch.save(tensor, file)
            places[name] = begin, file.tell() - begin
        file.write(b"PK behind")
    kept = path.read_bytes()
    for name, tensor in TENSORS.items():
        mapped = map_tensor(path, *places[name])
        assert torch.equal(mapped, tensor) and mapped.dtype == tensor.dtype and mapped.stride() == tensor.stride()
        assert mapped.data_ptr() % mapped.dtype.itemsize == 0
        mapped.zero_()
    assert path.read_bytes() == kept, "what is written to a tensor stays in memory"


def test_aligned_values_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    torch.save(torch.zeros(1000), path)
    size, tensor = path.stat().st_size, map_tensor(path, 0, path.stat().st_size)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(content.replace(bytes(4000), b"\0\0\x80\x3f" * 1000))
    assert path.stat().st_size == size and torch.equal(tensor, torch.ones(1000))


@pytest.mark.parametrize("damage", ["none of torch's", "cut off", "elsewhere"])
def test_no_tensor(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file"
    torch.save(torch.zeros(1000), path)
    size = path.stat().st_size
    if damage == "none of torch's":
        path.write_bytes(b"nothing " * 1000)
    place = {"cut off": (0, size - 100), "elsewhere": (8, size - 8)}.get(damage, (0, size))
    with pytest.raises(ValueError, match=f"file: no tensor can be read at byte {place[0]}"):
        map_tensor(path, *place)
