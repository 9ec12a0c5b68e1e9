"""Optimiser state between runs with and without expert parallelism.

With it megatron-core chains two optimisers (the experts' and the rest's) and nests their states by number; without
it there is one, not nested. Tensors are keyed by parameter, so only what is common to all ranks must be rearranged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import merge
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer

_EXPERT = "is_expert_parallel"


def fit_optimizer_state(state: dict[Any, Any], folder: Path, optimizer: MegatronOptimizer) -> dict[Any, Any]:
    """The state as `optimizer` takes it.

    Args:
        state: What was loaded for the optimiser: the tensors it asked for, and all of the checkpoint's common values.
        folder: The checkpoint.
        optimizer: The one that loads; distributed, where the checkpoint has another number of optimisers.
    """
    common = dist_checkpointing.load_common_state_dict(str(folder))["optimizer"]
    saved = [common[number] for number in sorted(key for key in common if isinstance(key, int))] or [common]
    number = len(optimizer.chained_optimizers) if isinstance(optimizer, ChainedOptimizer) else 1
    if len(saved) == number:
        _take_rates(state, optimizer)
        return state
    values = {name: value for name, value in saved[0].items() if name != "optimizer"}
    values["optimizer"] = {**saved[0]["optimizer"], "param_groups": _groups(saved)}
    _take_rates(values, optimizer)
    if number == 1:
        tensors = {name: value for name, value in state.items() if not isinstance(name, int)}
        return _merged(values, tensors)
    return {index: _merged(values, state[index]) for index in range(number)}


def _take_rates(state: dict[Any, Any], optimizer: MegatronOptimizer) -> None:
    """Put the run's learning rates over the saved ones: by them too megatron-core 0.19 tells groups apart."""
    ours = optimizer.param_groups[0]
    for part in [value for key, value in state.items() if isinstance(key, int)] or [state]:
        for group in part.get("optimizer", part)["param_groups"]:  # nested by the mixed-precision optimisers alone
            group.update({name: ours[name] for name in ("max_lr", "min_lr") if name in group})


def _groups(saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every parameter group of the checkpoint, for experts and for the rest: all have the same settings and step."""
    groups: dict[str, dict[str, Any]] = {}
    for part in saved:
        for group in part["optimizer"]["param_groups"]:
            for expert in (False, True):
                changed = {**group, _EXPERT: expert}
                groups.setdefault(repr(sorted(changed.items(), key=lambda item: item[0])), changed)
    return list(groups.values())


def _merged(values: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    copied = {**values, "optimizer": dict(values["optimizer"])}
    return merge(copied, {name: value for name, value in tensors.items() if name not in values})
