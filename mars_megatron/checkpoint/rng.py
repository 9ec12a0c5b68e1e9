"""Random states of a rank."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from mars_megatron import platform


def _is_cuda() -> bool:
    return platform.device().type == "cuda"


def rng_state() -> dict[str, Any]:
    """All generators of this process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if _is_cuda() else None,
        "tracker": get_cuda_rng_tracker().get_states(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and _is_cuda():
        torch.cuda.set_rng_state(state["cuda"])
    get_cuda_rng_tracker().set_states(state["tracker"])


def sharded_rng_state(groups: ProcessGroupCollection) -> ShardedObject:
    """One state per pipeline and tensor rank; data-parallel replicas share it."""
    return ShardedObject(
        "rng_state",
        [rng_state()],
        (groups.pp.size(), groups.tp.size()),
        (groups.pp.rank(), groups.tp.rank()),
        replica_id=groups.dp_cp.rank(),
    )
