"""Distributed checkpoints: saved under one layout, loaded under any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.checkpoint import folders
from mars_megatron.checkpoint.compatible import (
    CONFIG_FILE,
    check_has_optimizer,
    check_same_model,
    check_same_optimizer,
    check_same_training,
)
from mars_megatron.checkpoint.optimizer_state import fit_optimizer_state
from mars_megatron.checkpoint.rng import set_rng_state, sharded_rng_state
from mars_megatron.checkpoint.tokenizers import write_record
from mars_megatron.compat import megatron_core
from mars_megatron.config import to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.files.weights import check_numbers
from mars_megatron.files.writing import sync
from mars_megatron.model.initialization import start_new_slots
from mars_megatron.model.mars import MARSModel
from mars_megatron.platform.processes import become_helper

# How the tensors are cut and named; saved in the checkpoint too.
CONTENT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    # Frozen parameters have no optimiser state: with one tensor per layer they leave no hole in a shared one.
    "singleton_local_shards": True,
    "chained_optim_avoid_prefix": True,
}


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        step: Optimiser steps done.
        micro_batches: Global micro-batches consumed.
        data_order: Fingerprint of the order of samples in which they are counted; empty if not known.
    """

    step: int = 0
    micro_batches: int = 0
    data_order: str = ""


def _metadata(groups: ProcessGroupCollection) -> dict[str, Any]:
    return {**CONTENT, "dp_cp_group": groups.dp_cp}


def _sharded_model(chunks: Sequence[MARSModel], metadata: dict[str, Any]) -> dict[str, Any]:
    return {f"model{number}": chunk.sharded_state_dict(metadata=metadata) for number, chunk in enumerate(chunks)}


def _merged(sharded_model: dict[str, Any]) -> dict[str, Any]:
    """What the optimiser looks its parameters up in; one chunk as is, several by chunk."""
    return sharded_model["model0"] if len(sharded_model) == 1 else sharded_model


def save(
    root: str | Path,
    position: Position,
    config: RunConfig,
    groups: ProcessGroupCollection,
    chunks: Sequence[MARSModel],
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
    tokenizers: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint; called by every rank. `latest` moves only after it is complete.

    Args:
        root: Folder of the run.
        position: Step and data position.
        config: Saved beside the tensors.
        groups: Process groups.
        chunks: This rank's model chunks (unwrapped).
        optimizer: Saved with its moments and master weights.
        scheduler: Learning-rate schedule.
        tokenizers: Fingerprints of the run's tokenizers by setting, see `checkpoint.tokenizers`.

    Returns:
        The folder of the checkpoint.
    """
    megatron_core.install_writer(become_helper)
    folder = folders.step_folder(Path(root), position.step)
    temporary = folders.incomplete(folder)
    is_writer = torch.distributed.get_rank() == 0
    if is_writer:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    torch.distributed.barrier()
    metadata = _metadata(groups)
    model = _sharded_model(chunks, metadata)
    state = {
        **model,
        "optimizer": optimizer.sharded_state_dict(_merged(model), metadata=metadata),
        "scheduler": scheduler.state_dict(),
        "rng": sharded_rng_state(groups),
        "position": asdict(position),
    }
    dist_checkpointing.save(state, str(temporary), content_metadata=CONTENT)
    torch.distributed.barrier()
    if is_writer:
        megatron_core.write_common(temporary)
        (temporary / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
        write_record(temporary, tokenizers or {})
        if config.checkpoint.verify_integrity:
            megatron_core.write_sums(temporary)
        sync(temporary)  # before it has a name that promises it
        folders.publish(folder)
        folders.remove_old(Path(root), config.checkpoint.keep)
    torch.distributed.barrier()
    return folder


def load_model(
    path: str | Path,
    config: RunConfig,
    groups: ProcessGroupCollection,
    chunks: Sequence[MARSModel],
    text_only: bool = False,
) -> Path:
    """Load the parameters alone, under any layout.

    Args:
        path: A checkpoint, or the folder of a run (its latest checkpoint).
        config: The run that loads; its model must have the checkpoint's shape.
        groups: Process groups.
        chunks: This rank's model chunks (unwrapped).
        text_only: Leave visual parameters as they are; the checkpoint may have other visual experts. Else it may have
            another image.next_k; start slots that it lacks start as its BOI.

    Raises:
        ValueError: no complete checkpoint at `path`, one of another shape, or a value is no number.
    """
    folder = folders.resolve(path)
    saved = check_same_model(folder, config, image=False, visual=not text_only)
    other_slots = not text_only and saved.image.next_k != config.image.next_k
    request = {
        number: {name: value for name, value in chunk.items() if not _is_left_out(name, text_only)}
        for number, chunk in _sharded_model(chunks, _metadata(groups)).items()
    }
    if other_slots:
        for tensor in _image_tables(request):
            tensor.allow_shape_mismatch = True  # rows that the checkpoint lacks become zeros
    state = dist_checkpointing.load(request, str(folder))
    _check_parameters(state, request, folder)
    for number, chunk in enumerate(chunks):
        result = chunk.load_state_dict(state[f"model{number}"], strict=False)
        left_out = all(_is_left_out(name, text_only) for name in result.missing_keys)
        assert left_out and not result.unexpected_keys, result
        if other_slots:
            start_new_slots(chunk, saved.image.next_k, groups.tp)
    return folder


def _check_parameters(state: dict[str, Any], request: dict[str, Any], folder: Path) -> None:
    """Refuse parameters that are no numbers; each rank looks at its own."""
    for model in (name for name in request if name.startswith("model")):
        for name, value in state[model].items():
            if isinstance(value, torch.Tensor):  # not the extra states
                check_numbers(value, request[model][name].key, f"{folder}, as this rank holds it")


def _image_tables(request: dict[str, dict[str, Any]]) -> list[ShardedTensor]:
    """The shards of the image tables, whose rows the start slots are."""
    tables = (chunk.get(f"{name}.visual.weight") for chunk in request.values() for name in ("embedding", "head"))
    return [table for table in tables if table is not None]


def _is_left_out(name: str, text_only: bool) -> bool:
    """Extra states (FP8 scales) are no parameters; a converted checkpoint has none."""
    parts = name.split(".")
    return parts[-1].startswith("_extra_state") or (text_only and "visual" in parts)


def load(
    folder: Path,
    config: RunConfig,
    groups: ProcessGroupCollection,
    chunks: Sequence[MARSModel],
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
) -> Position:
    """Load everything that `save` wrote, under the same or another layout; called by every rank.

    The scheduler must be a fresh one: megatron-core adds the saved steps to its own.
    Random states are restored under the layout that saved them; under another there is nothing to map them to.

    Raises:
        ValueError: the checkpoint is of another model shape, its optimiser state is of another kind, or a value is no
            number.
    """
    saved = check_same_model(folder, config)
    check_same_training(folder, saved, config)
    check_has_optimizer(
        folder, "cannot be resumed; start a new run from it with checkpoint.init_from and another checkpoint.dir"
    )
    metadata = _metadata(groups)
    model = _sharded_model(chunks, metadata)
    request: dict[str, Any] = {
        **model,
        "optimizer": optimizer.sharded_state_dict(_merged(model), is_loading=True, metadata=metadata),
    }
    ours, theirs = config.parallel, saved.parallel
    same_layout = (theirs.tensor, theirs.pipeline, theirs.expert) == (ours.tensor, ours.pipeline, ours.expert)
    if same_layout:
        request["rng"] = sharded_rng_state(groups)
    state = dist_checkpointing.load(request, str(folder))
    _check_parameters(state, request, folder)
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(state[f"model{number}"])
    optimizer.load_state_dict(fit_optimizer_state(state["optimizer"], folder, optimizer))
    scheduler.load_state_dict(state["scheduler"])
    if same_layout:
        set_rng_state(state["rng"][0])
    return Position(**state["position"])


def load_optimizer(
    path: str | Path,
    config: RunConfig,
    groups: ProcessGroupCollection,
    chunks: Sequence[MARSModel],
    optimizer: MegatronOptimizer,
) -> None:
    """Load the optimiser's moments and master weights alone, under any layout; called by every rank.

    With them come the settings that the optimiser had; see `apply_settings`.

    Args:
        path: A checkpoint, or the folder of a run (its latest checkpoint), whose parameters the chunks have.
        config: The run that loads.
        groups: Process groups.
        chunks: This rank's model chunks (unwrapped).
        optimizer: Filled.

    Raises:
        ValueError: The checkpoint has no optimiser state, or one of another kind.
    """
    folder = folders.resolve(path)
    check_same_optimizer(folder, check_same_model(folder, config, image=False), config)
    check_has_optimizer(folder, "no optimiser state; set checkpoint.init_optimizer to fresh")
    metadata = _metadata(groups)
    model = _sharded_model(chunks, metadata)
    request = {"optimizer": optimizer.sharded_state_dict(_merged(model), is_loading=True, metadata=metadata)}
    state = dist_checkpointing.load(request, str(folder))
    optimizer.load_state_dict(fit_optimizer_state(state["optimizer"], folder, optimizer))
