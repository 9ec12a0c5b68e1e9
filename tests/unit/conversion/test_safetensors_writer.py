"""The library reads what is written tensor by tensor."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mars_megatron.checkpoint.tensors import LazyTensor, TensorInfo
from mars_megatron.conversion.hugging_face import HuggingFaceFiles
from mars_megatron.conversion.safetensors_writer import INDEX, write_file, write_folder

torch.manual_seed(0)
TENSORS = {
    "a.fp32": torch.randn(5, 7),
    "b.bf16": torch.randn(33).bfloat16(),
    "c.fp16": torch.randn(3, 2, 2).half(),
    "d.fp64": torch.randn(4).double(),
    "e.scalar": torch.tensor(2.5),
    "f.empty": torch.zeros(0, 4),
    "g.transposed": torch.randn(6, 5).t(),
    "h.row, repeated": torch.randn(1, 6).expand(9, 6),
    "i.名": torch.randn(2),
}


def lazy(tensors: dict[str, Tensor]) -> dict[str, LazyTensor]:
    return {
        name: LazyTensor(TensorInfo(tuple(value.shape), value.dtype), lambda value=value: value)
        for name, value in tensors.items()
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "note": 'ä " \\'}])
def test_one_file(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "model.safetensors"
    write_file(path, lazy(TENSORS), metadata)
    assert_same(load_file(path), TENSORS)
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == metadata
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0, "values begin aligned"


def test_no_tensors(tmp_path: Path) -> None:
    write_file(tmp_path / "none.safetensors", {})
    assert load_file(tmp_path / "none.safetensors") == {}


@pytest.mark.parametrize(("limit", "number"), [(10**6, 1), (210, 4), (150, 5), (0, len(TENSORS))])
def test_shards(tmp_path: Path, limit: int, number: int) -> None:
    files = write_folder(tmp_path, lazy(TENSORS), limit)
    assert len(files) == number and all(path.is_file() for path in files)
    found: dict[str, Tensor] = {}
    for path in files:
        shard = load_file(path)
        size = sum(value.nbytes for value in shard.values())
        assert size <= limit or len(shard) == 1, "a tensor that is larger has a shard of its own"
        assert shard and not shard.keys() & found.keys()
        found |= shard
    assert_same(found, TENSORS)
    if number == 1:
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        return
    assert files[0].name == f"model-00001-of-{number:05d}.safetensors"
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in TENSORS.values())
    assert index["weight_map"].keys() == TENSORS.keys()
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / file)
    read = HuggingFaceFiles(tmp_path)
    assert_same({name: read.read(name) for name in read.tensors}, TENSORS)


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """At most the tensor that is written and the one after it are in memory."""
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def load() -> Tensor:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        memory = np.ones(1000, dtype=np.float32)
        weakref.finalize(memory, gone)
        return torch.from_numpy(memory)

    info = TensorInfo((1000,), torch.float32)
    write_file(tmp_path / "many.safetensors", {str(number): LazyTensor(info, load) for number in range(20)})
    assert 1 <= most <= 3 and len(load_file(tmp_path / "many.safetensors")) == 20
