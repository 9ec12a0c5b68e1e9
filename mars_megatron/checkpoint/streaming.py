"""The parameters of a checkpoint, tensor by tensor, without a process group."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, maybe_load_config, save_config
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from tqdm import tqdm

from mars_megatron.checkpoint import folders
from mars_megatron.checkpoint.compatible import CONFIG_FILE
from mars_megatron.checkpoint.mapped import map_tensor
from mars_megatron.checkpoint.store import CONTENT, Position
from mars_megatron.checkpoint.tensors import LazyTensor, TensorInfo, prefetched
from mars_megatron.checkpoint.tokenizers import write_record
from mars_megatron.config import to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.files.weights import check_numbers
from mars_megatron.files.writing import BackgroundSync, naming, sync

_OPTIMIZER = "optimizer."
# What reading a damaged index raises.
_DAMAGE = (
    *(ValueError, TypeError, AttributeError, LookupError, ImportError, EOFError, RuntimeError),
    *(OverflowError, MemoryError, pickle.UnpicklingError),
)


class CheckpointTensors:
    """The parameters of a checkpoint of any layout, as whole tensors under their keys; nothing of the optimiser.

    Args:
        folder: One checkpoint (`folders.resolve`).

    Raises:
        ValueError: It is not a torch_dist checkpoint, or one of its files is missing or cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader = dcp.FileSystemReader(folder)
        self._metadata = self._read_metadata()
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        self._check_files()
        self._stored: dict[str, TensorStorageMetadata] = {
            name: stored
            for name, stored in self._metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata) and not name.startswith(_OPTIMIZER)
        }
        self.tensors = {
            name: TensorInfo(tuple(stored.size), stored.properties.dtype) for name, stored in self._stored.items()
        }

    def _read_metadata(self) -> Metadata:
        if not (self.folder / "metadata.json").is_file() or not (self.folder / ".metadata").is_file():
            raise ValueError(f"{self.folder} is not a torch_dist checkpoint: metadata.json or .metadata is missing")
        try:
            name = "metadata.json"
            maybe_load_config(str(self.folder))
            name = ".metadata"
            return self._reader.read_metadata()
        except _DAMAGE as error:
            raise ValueError(f"{self.folder / name} cannot be read, it may be cut off: {error}") from error

    @property
    def has_optimizer(self) -> bool:
        """Whether there is optimiser state too."""
        return any(name.startswith(_OPTIMIZER) for name in self._metadata.state_dict_metadata)

    def _check_files(self) -> None:
        ends: dict[str, tuple[int, str]] = {}
        for index, place in self._metadata.storage_data.items():
            end = place.offset + place.length
            ends[place.relative_path] = max(ends.get(place.relative_path, (0, "")), (end, index.fqn))
        for name, (end, tensor) in ends.items():
            path = self.folder / name
            if not path.is_file():
                raise ValueError(f"{path} is missing; {tensor} of this checkpoint lies in it")
            if path.stat().st_size < end:
                raise ValueError(
                    f"{path} is cut off: it has {path.stat().st_size} bytes, and {tensor} ends at byte {end}"
                )

    def read(self, name: str) -> Tensor:
        """The whole tensor, from however many shards.

        Raises:
            ValueError: It cannot be read, or a value is no number.
        """
        tensor = self._read(name)
        check_numbers(tensor, name, self.folder)
        return tensor

    def _read(self, name: str) -> Tensor:
        info, stored = self.tensors[name], self._stored[name]
        if len(stored.chunks) == 1:
            return self._read_chunk(name, stored.chunks[0])
        tensor = torch.empty(info.shape, dtype=info.dtype)
        whole = ChunkStorageMetadata(offsets=torch.Size([0] * tensor.ndim), sizes=tensor.size())
        items = create_read_items_for_chunk_list(name, stored, [whole])
        self._reader.read_data(LoadPlan(items), _IntoTensor(tensor))
        return tensor

    def _read_chunk(self, name: str, chunk: ChunkStorageMetadata) -> Tensor:
        """A chunk as it was saved; the reader would copy it into memory, and once more."""
        place = self._metadata.storage_data[MetadataIndex(name, chunk.offsets)]
        return map_tensor(self.folder / place.relative_path, place.offset, place.length)


class _IntoTensor(DefaultLoadPlanner):
    """Puts what is read into one tensor."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.tensor


class _Stream(SavePlanner):
    """Hands tensors to the writer in the order of the plan, each when its turn comes.

    Attributes:
        current: The tensor that the writer has.
    """

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar
        self.current = "the first tensor"

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        self.tensors: Mapping[str, LazyTensor] = state_dict
        self.stream: Iterator[tuple[str, Tensor]] = prefetched(self.tensors)

    def create_local_plan(self) -> SavePlan:
        return SavePlan([_write_item(name, tensor.info) for name, tensor in self.tensors.items()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        name, tensor = next(self.stream)
        assert name == write_item.index.fqn, (name, write_item)
        self.current = name
        self.bar.update(tensor.nbytes)
        return tensor.contiguous()


class _Files(FileSystem):
    """The writer's files."""

    def __init__(self, stream: _Stream, background: BackgroundSync) -> None:
        self._stream, self._background = stream, background

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """See `FileSystem`."""
        with naming(Path(path), lambda: self._stream.current), super().create_stream(path, mode) as stream:
            yield stream
        if Path(path).suffix == ".distcp":  # the other file is renamed
            self._background.start(Path(path))


def _write_item(name: str, info: TensorInfo) -> WriteItem:
    zeros, size = torch.Size([0] * len(info.shape)), torch.Size(info.shape)
    return WriteItem(
        index=MetadataIndex(name, zeros),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(zeros, size), properties=TensorProperties(dtype=info.dtype), size=size
        ),
    )


def write_checkpoint(
    root: Path,
    config: RunConfig,
    step: int,
    tensors: Mapping[str, LazyTensor],
    *,
    tokenizers: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Path:
    """Write a checkpoint of parameters alone, one tensor (and the one after it) in memory at a time.

    Args:
        root: Folder of the run; must hold no checkpoint of this step.
        config: Saved beside the tensors.
        step: Number of the checkpoint.
        tensors: By key, in the order in which they are written.
        tokenizers: Fingerprints of its tokenizers by setting, see `checkpoint.tokenizers`.
        progress: Show a progress bar.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: The disk is full, or not writable.
    """
    folder = folders.step_folder(root, step)
    temporary = folders.incomplete(folder)
    temporary.mkdir(parents=True)
    total = sum(tensor.info.nbytes for tensor in tensors.values())
    # A file for each tensor: the writer keeps what it has written until it closes the file.
    writer = dcp.FileSystemWriter(temporary, single_file_per_rank=False, sync_files=False, per_thread_copy_ahead=0)
    with tqdm(total=total, desc="write", unit="B", unit_scale=True, disable=not progress) as bar:
        stream = _Stream(bar)
        with BackgroundSync() as background, _without_checksums(), _quiet():
            writer.fs = _Files(stream, background)
            try:
                dcp.save(dict(tensors), storage_writer=writer, planner=stream, no_dist=True)
            except CheckpointException as error:  # not an Exception; holds what each rank raised
                raise next(iter(error.failures.values()))[0] from None
    with naming(temporary, "common.pt and the configuration"):
        with (temporary / "common.pt").open("wb") as file:  # torch's own opening hides what the system says
            torch.save({"position": asdict(Position(step=step)), "content_metadata": CONTENT}, file)
        save_config(CheckpointingConfig("torch_dist"), str(temporary))
        (temporary / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
        write_record(temporary, tokenizers or {})
    sync(temporary)
    folders.publish(folder)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks that one process writes alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no_dist.*|.*torch.distributed.*single process.*")
        yield


@contextmanager
def _without_checksums() -> Iterator[None]:
    """torch.save without CRC-32, which torch.load does not check and which halves the speed."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
