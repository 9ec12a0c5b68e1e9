"""Checks that a checkpoint fits a run, by their settings, before a tensor is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from megatron.core import dist_checkpointing

from mars_megatron.config import from_yaml
from mars_megatron.config.schema import RunConfig

CONFIG_FILE = "config.yaml"


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
    names = [name for name in names if name not in ("model.init_std", "model.embedding_init_std")] + ["experts.text"]
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


def check_same_training(folder: Path, saved: RunConfig, config: RunConfig) -> None:
    """Compare what decides which optimiser state exists, and what the data position counts.

    Raises:
        ValueError: naming every setting that differs.
    """
    names = _of_the_optimizer(config)
    names += ["data.validation_path", "data.validation_fraction", "data.tasks", "data.caption_dropout"]
    names += ["data.micro_batch_tokens", "data.pack_by_task", "data.too_long", "data.seed"]
    differences = _differences(saved, config, names)
    if differences:
        raise ValueError(
            f"{folder} cannot be resumed: {'; '.join(differences)}. Use its settings, or start a new run "
            "from it with checkpoint.init_from and another checkpoint.dir"
        )


def check_same_optimizer(folder: Path, saved: RunConfig, config: RunConfig) -> None:
    """Compare what decides which optimiser state exists.

    Raises:
        ValueError: naming every setting that differs.
    """
    differences = _differences(saved, config, [*_of_the_optimizer(config), "image.next_k"])
    if differences:
        raise ValueError(
            f"the optimiser state of {folder} is of another kind: {'; '.join(differences)}. Use its settings, or set "
            "checkpoint.init_optimizer to fresh"
        )


def check_has_optimizer(folder: Path, advice: str) -> None:
    """Refuse a checkpoint that holds parameters alone, as the conversions write it.

    Raises:
        ValueError: It does; with the advice.
    """
    if "optimizer" not in dist_checkpointing.load_common_state_dict(str(folder)):
        raise ValueError(f"{folder} holds parameters alone and {advice}")


def _of_the_optimizer(config: RunConfig) -> list[str]:
    names = [f"freeze.{name}" for name in asdict(config.freeze)]
    names += ["training.precision", "parallel.distributed_optimizer"]
    if not config.parallel.distributed_optimizer:
        # Its state is kept by the number of a parameter, which expert parallelism changes.
        names.append("parallel.expert")
    return names


def _differences(saved: RunConfig, config: RunConfig, names: Sequence[str]) -> list[str]:
    """One line for each dotted setting that differs."""
    pairs = [(name, attrgetter(name)(config), attrgetter(name)(saved)) for name in names]
    return [f"{name} is {ours}, the checkpoint has {theirs}" for name, ours, theirs in pairs if ours != theirs]
