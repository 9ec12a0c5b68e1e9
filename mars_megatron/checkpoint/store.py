"""Distributed checkpoints: saved under one layout, loaded under any other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.checkpoint import folders
from mars_megatron.checkpoint.optimizer_state import fit_optimizer_state
from mars_megatron.checkpoint.rng import set_rng_state, sharded_rng_state
from mars_megatron.config import from_yaml, to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.model.initialization import start_new_slots
from mars_megatron.model.mars import MARSModel

CONFIG_FILE = "config.yaml"
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

    Returns:
        The folder of the checkpoint.
    """
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
        (temporary / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
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
        ValueError: no complete checkpoint at `path`, or one of another shape.
    """
    folder = folders.resolve(path)
    saved = check_same_model(folder, config, image=False, visual=not text_only)
    other_slots = not text_only and saved.image.next_k != config.image.next_k
    request = {
        number: {name: value for name, value in chunk.items() if not _is_left_out(name, text_only)}
        for number, chunk in _sharded_model(chunks, _metadata(groups)).items()
    }
    if other_slots:
        for tensor in image_tables(request):
            tensor.allow_shape_mismatch = True  # rows that the checkpoint lacks become zeros
    state = dist_checkpointing.load(request, str(folder))
    for number, chunk in enumerate(chunks):
        result = chunk.load_state_dict(state[f"model{number}"], strict=False)
        left_out = all(_is_left_out(name, text_only) for name in result.missing_keys)
        assert left_out and not result.unexpected_keys, result
        if other_slots:
            start_new_slots(chunk, saved.image.next_k, groups.tp)
    return folder


def image_tables(request: dict[str, dict[str, Any]]) -> list[ShardedTensor]:
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
        ValueError: the checkpoint is of another model shape, or its optimiser state is of another kind.
    """
    saved = check_same_model(folder, config)
    _check_same_training(folder, saved, config)
    if "optimizer" not in dist_checkpointing.load_common_state_dict(str(folder)):
        raise ValueError(
            f"{folder} holds parameters alone and cannot be resumed; start a new run from it with checkpoint.init_from "
            "and another checkpoint.dir"
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
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(state[f"model{number}"])
    optimizer.load_state_dict(fit_optimizer_state(state["optimizer"], folder, optimizer))
    scheduler.load_state_dict(state["scheduler"])
    if same_layout:
        set_rng_state(state["rng"][0])
    return Position(**state["position"])


def _check_same_training(folder: Path, saved: RunConfig, config: RunConfig) -> None:
    """Compare what decides which optimiser state exists, and what the data position counts.

    Raises:
        ValueError: naming every setting that differs.
    """
    names = [f"freeze.{name}" for name in asdict(config.freeze)]
    names += ["training.precision", "parallel.distributed_optimizer"]
    names += ["data.validation_path", "data.validation_fraction", "data.tasks", "data.caption_dropout"]
    names += ["data.micro_batch_tokens", "data.pack_by_task", "data.too_long", "data.seed"]
    if not config.parallel.distributed_optimizer:
        # Its state is kept by the number of a parameter, which expert parallelism changes.
        names.append("parallel.expert")
    differences = _differences(saved, config, names)
    if differences:
        raise ValueError(
            f"{folder} cannot be resumed: {'; '.join(differences)}. Use its settings, or start a new run "
            "from it with checkpoint.init_from and another checkpoint.dir"
        )


def _differences(saved: RunConfig, config: RunConfig, names: Sequence[str]) -> list[str]:
    """One line for each dotted setting that differs."""
    pairs = [(name, attrgetter(name)(config), attrgetter(name)(saved)) for name in names]
    return [f"{name} is {ours}, the checkpoint has {theirs}" for name, ours, theirs in pairs if ours != theirs]


def read_config(folder: Path) -> RunConfig:
    """The configuration saved in a checkpoint."""
    return from_yaml(folder / CONFIG_FILE)


def check_same_model(folder: Path, config: RunConfig, *, image: bool = True, visual: bool = True) -> RunConfig:
    """Compare what decides the model's parameters with a checkpoint's settings; returns its configuration.

    Args:
        folder: The checkpoint.
        config: The run that loads it.
        image: Compare the image size as well. Parameters alone fit any (positions are rotary).
        visual: Compare the visual experts as well.

    Raises:
        ValueError: naming every setting that differs.
    """
    names = [f"{section}.{name}" for section in ("model", "vocabulary") for name in asdict(getattr(config, section))]
    names = [name for name in names if not name.endswith("init_std")] + ["experts.text"]
    if image:
        names += [f"image.{name}" for name in asdict(config.image)]
    if visual:
        names += ["experts.visual", "router.condition"]
    else:
        names.remove("model.shared_experts")
    if config.experts.text > 1 or (visual and config.experts.visual > 1):
        names.append("router.top_k")
    saved = read_config(folder)
    differences = _differences(saved, config, names)
    if differences:
        raise ValueError(f"{folder} is a checkpoint of another model: " + "; ".join(differences))
    return saved
