"""Writing safetensors files tensor by tensor; the library's own writer wants all of a file's tensors at once.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the length of a JSON header, little endian; the
header with dtype, shape and place of every tensor, padded by spaces to a multiple of 8; the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mars_megatron.checkpoint.tensors import LazyTensor, TensorInfo, prefetched
from mars_megatron.files.writing import BackgroundSync, naming

INDEX = "model.safetensors.index.json"
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_ALIGNMENT = 8
_SYNC_AT = 2**26  # bytes


def write_file(
    path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None, *, progress: bool = False
) -> None:
    """Write one file.

    Args:
        path: The file.
        tensors: By name, in the order in which they lie in the file.
        metadata: Strings kept in the header.
        progress: Show a progress bar.
    """
    total = _num_bytes(tensors)
    with tqdm(total=total, desc="write", unit="B", unit_scale=True, disable=not progress) as bar:
        _write(path, {name: tensor.info for name, tensor in tensors.items()}, prefetched(tensors), metadata, bar)


def write_folder(
    folder: Path, tensors: Mapping[str, LazyTensor], max_shard_size: int, *, progress: bool = False
) -> list[Path]:
    """Write model.safetensors, or shards with their index where it would pass `max_shard_size` bytes.

    A tensor is never cut: one that is larger than that has a shard of its own.

    Returns:
        The files with tensors.
    """
    shards = list(_shards(tensors, max_shard_size))
    number = len(shards)
    names = [f"model-{place:05d}-of-{number:05d}.safetensors" for place in range(1, number + 1)]
    if number == 1:
        names = ["model.safetensors"]
    total = _num_bytes(tensors)
    with tqdm(total=total, desc="write", unit="B", unit_scale=True, disable=not progress) as bar:
        stream = prefetched(tensors)
        for name, shard in zip(names, shards, strict=True):
            _write(folder / name, shard, stream, {"format": "pt"}, bar)
    if number > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in names]


def _num_bytes(tensors: Mapping[str, LazyTensor]) -> int:
    return sum(tensor.info.nbytes for tensor in tensors.values())


def _shards(tensors: Mapping[str, LazyTensor], max_shard_size: int) -> Iterator[dict[str, TensorInfo]]:
    shard: dict[str, TensorInfo] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.info.nbytes > max_shard_size:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.info
        size += tensor.info.nbytes
    yield shard


def _write(
    path: Path,
    infos: Mapping[str, TensorInfo],
    stream: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None,
    bar: tqdm,
) -> None:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, info in infos.items():
        begin, end = end, end + info.nbytes
        header[name] = {"dtype": _TYPES[info.dtype], "shape": list(info.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    values = iter(stream)
    name, unsynced = "the header", 0
    with BackgroundSync() as background, naming(path, lambda: name), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for expected in infos:
            name, tensor = next(values)
            assert name == expected, (name, expected)
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
            file.flush()  # an error is this tensor's
            bar.update(tensor.nbytes)
            unsynced += tensor.nbytes
            if unsynced > _SYNC_AT:
                background.start(path)
                unsynced = 0
