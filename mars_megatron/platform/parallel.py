"""Process groups of a run: the one place that talks to megatron-core's global parallel state."""

from __future__ import annotations

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from mars_megatron.config.schema import ParallelConfig
from mars_megatron.platform.device import init_process_group

# The job and the sizes for which megatron-core's groups stand.
_standing: tuple[object, ...] | None = None


def initialize_parallel(config: ParallelConfig, seed: int) -> ProcessGroupCollection:
    """Join the job, make the process groups and seed the model-parallel generators.

    A second call in one process replaces the groups if other sizes are wanted (tests run several layouts in one
    process; torch keeps the threads of every group to the end).

    Args:
        config: Sizes; data parallel takes the remaining ranks.
        seed: Seed of the model-parallel random states.
    """
    global _standing
    init_process_group()
    sizes = (config.tensor, config.pipeline, config.virtual_pipeline, config.expert)
    wanted = (torch.distributed.group.WORLD, *sizes)
    if not parallel_state.model_parallel_is_initialized() or wanted != _standing:
        parallel_state.destroy_model_parallel()
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=config.tensor,
            pipeline_model_parallel_size=config.pipeline,
            virtual_pipeline_model_parallel_size=config.virtual_pipeline if config.virtual_pipeline > 1 else None,
            expert_model_parallel_size=config.expert,
        )
        _standing = wanted
    model_parallel_cuda_manual_seed(seed)
    return ProcessGroupCollection.use_mpu_process_groups()


def host_group(group: torch.distributed.ProcessGroup) -> torch.distributed.ProcessGroup | None:
    """A group of the same ranks that talks between their hosts' memories, also where `group` talks between GPUs, and
    which another thread may use meanwhile. None for a single rank. Every rank of the job must call this.

    Args:
        group: This rank's group of some kind; those of all ranks divide the job.
    """
    ranks = torch.distributed.get_process_group_ranks(group)
    everyones: list[list[int]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(everyones, ranks)
    made = {tuple(one): torch.distributed.new_group(one, backend="gloo") for one in _unique(everyones) if len(one) > 1}
    return made.get(tuple(ranks))


def _unique(lists: list[list[int]]) -> list[list[int]]:
    return [list(one) for one in sorted({tuple(one) for one in lists})]


def is_last_stage(groups: ProcessGroupCollection) -> bool:
    """Whether this rank holds the end of the pipeline."""
    return groups.pp.rank() == groups.pp.size() - 1


def world_size() -> int:
    """Ranks of the job."""
    return torch.distributed.get_world_size()


def shut_down() -> None:
    """Leave the job in step with the other ranks; gloo aborts a rank whose peer vanished before it."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
