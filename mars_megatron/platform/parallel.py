"""Process groups of a run: the one place that talks to megatron-core's global parallel state."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from mars_megatron.config.schema import ParallelConfig
from mars_megatron.platform.device import init_process_group

Value = TypeVar("Value")

# The job and the sizes for which megatron-core's groups stand.
_standing: tuple[object, ...] | None = None
# Kept for later runs in this process.
_channels: dict[tuple[object, tuple[int, ...]], HostChannel] = {}


def initialize_parallel(config: ParallelConfig, seed: int) -> ProcessGroupCollection:
    """Join the job, make the process groups and seed the model-parallel generators.

    A second call in one process replaces the groups if other sizes are wanted (tests run several layouts in one
    process); those of before are of no use from then on.

    Args:
        config: Sizes; data parallel takes the remaining ranks.
        seed: Seed of the model-parallel random states.
    """
    global _standing
    init_process_group()
    sizes = (config.tensor, config.pipeline, config.virtual_pipeline, config.expert)
    wanted = (torch.distributed.group.WORLD, *sizes)
    if not parallel_state.model_parallel_is_initialized() or wanted != _standing:
        _give_up_groups()
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=config.tensor,
            pipeline_model_parallel_size=config.pipeline,
            virtual_pipeline_model_parallel_size=config.virtual_pipeline if config.virtual_pipeline > 1 else None,
            expert_model_parallel_size=config.expert,
        )
        _standing = wanted
    model_parallel_cuda_manual_seed(seed)
    return ProcessGroupCollection.use_mpu_process_groups()


def _give_up_groups() -> None:
    """Destroy the groups that stand, if any do: each has a thread that wakes a hundred times a second until nothing
    refers to its group."""
    if not parallel_state.model_parallel_is_initialized():
        return
    torch.distributed.barrier()  # no rank still uses one
    groups = set(vars(ProcessGroupCollection.use_mpu_process_groups()).values())
    groups.add(parallel_state.get_tensor_and_data_parallel_group())  # in no collection
    parallel_state.destroy_model_parallel()
    for group in groups - {None, torch.distributed.group.WORLD}:
        torch.distributed.destroy_process_group(group)
    groups.clear()
    gc.collect()  # models refer to their groups, and to themselves


def only_on_rank_0(make: Callable[[], Value]) -> Value:
    """What `make` gives on rank 0, the only one to call it, on every rank; values travel pickled.

    Raises:
        ValueError, OSError: It was raised there; every rank raises it.
    """
    box: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            box[0] = make()
        except (ValueError, OSError) as error:  # the others wait for an answer
            box[1] = error
    torch.distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


@dataclass(frozen=True)
class HostChannel:
    """Some ranks that exchange arrays between their hosts' memories, beside what the main thread does.

    All exchanges run in `thread`, in the order in which they are submitted; the ranks must submit the same ones.

    Args:
        group: A gloo group of their own.
        thread: The only user of the group.
    """

    group: torch.distributed.ProcessGroup
    thread: ThreadPoolExecutor


def host_channel(group: torch.distributed.ProcessGroup) -> HostChannel | None:
    """The channel between the ranks of a group; None for a single rank. Every rank of the job must call this.

    Args:
        group: This rank's group of some kind; those of all ranks divide the job.
    """
    ranks = tuple(torch.distributed.get_process_group_ranks(group))
    everyones: list[tuple[int, ...]] = [()] * world_size()
    torch.distributed.all_gather_object(everyones, ranks)
    for members in sorted(set(everyones)):
        key = (torch.distributed.group.WORLD, members)
        if len(members) > 1 and key not in _channels:
            made = torch.distributed.new_group(list(members), backend="gloo")
            _channels[key] = HostChannel(made, ThreadPoolExecutor(max_workers=1, thread_name_prefix="host_channel"))
    return _channels.get((torch.distributed.group.WORLD, ranks))


def is_last_stage(groups: ProcessGroupCollection) -> bool:
    """Whether this rank holds the end of the pipeline."""
    return groups.pp.rank() == groups.pp.size() - 1


def world_size() -> int:
    """Ranks of the job."""
    return torch.distributed.get_world_size()


def shut_down() -> None:
    """Leave the job in step with the other ranks; gloo aborts a rank whose peer vanished before it.

    The groups of a single rank on a CPU stay for the next run in this process: there is no peer.
    """
    if torch.distributed.is_initialized():
        if world_size() == 1 and torch.distributed.get_backend() == "gloo":
            return
        torch.distributed.barrier()
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
