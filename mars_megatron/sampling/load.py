"""A model for sampling from a checkpoint of any training layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron import platform
from mars_megatron.checkpoint import load_model, read_config, resolve
from mars_megatron.checkpoint.tokenizers import locate
from mars_megatron.config import validate
from mars_megatron.config.parser import override
from mars_megatron.config.schema import ParallelConfig, RecomputeConfig, RunConfig
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel, only_on_rank_0, world_size
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers.text_checks import warn_of_former_checkpoint


@dataclass(frozen=True)
class LoadedModel:
    """A model for sampling; unpacks to model, config, groups and vocabulary.

    Attributes:
        model: The whole model, in evaluation mode; this rank's tensor-parallel share.
        config: The configuration saved in the checkpoint, with the current layout and overrides.
        groups: Process groups.
        vocabulary: Layout of the joined ids.
        missing: By setting of `data`, why a tokenizer of the checkpoint is missing.
    """

    model: MARSModel
    config: RunConfig
    groups: ProcessGroupCollection
    vocabulary: Vocabulary
    missing: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.config, self.groups, self.vocabulary))


def load_for_inference(
    path: str | Path,
    tensor: int | None = None,
    overrides: Sequence[str] = (),
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    groups: ProcessGroupCollection | None = None,
) -> LoadedModel:
    """Load a checkpoint under the layout of this job; every rank must call it.

    Args:
        path: A checkpoint, or the folder of a run (its latest checkpoint).
        tensor: Tensor-parallel size; None takes all ranks. With fewer, the replicas hold the same model.
        overrides: Settings in place of the saved ones: ["--generation.guidance=2", ...].
        device: Where the model runs; the checkpoint may come from another.
        groups: Process groups of a model already loaded; None makes them.

    Raises:
        ValueError: No complete checkpoint at `path`, a wrong override, or a model that `tensor` does not divide.
    """
    folder = agreed_checkpoint(path, device)
    if groups:
        tensor = groups.tp.size()
    elif tensor is None:
        tensor = world_size()
    if tensor < 1 or world_size() % tensor:
        raise ValueError(f"tensor is {tensor}; accepted: a divisor of the number of ranks, which is {world_size()}")
    # Other hosts may see other files.
    located = only_on_rank_0(lambda: locate(folder, overrides))
    config = _for_sampling(located.config, tensor, device)
    only_on_rank_0(lambda: warn_of_former_checkpoint(folder, config.data.text_tokenizer))
    groups = groups or initialize_parallel(config.parallel, config.training.seed)
    (model,) = build_model(config, groups, initialize=False)
    load_model(folder, config, groups, [model])
    return LoadedModel(model.eval(), config, groups, Vocabulary.from_config(config), located.missing)


def agreed_checkpoint(path: str | Path, device: Literal["auto", "cpu", "cuda"] = "auto") -> Path:
    """The checkpoint that rank 0 finds, a moment before a run that goes on may have a newer one.

    Every rank must call it.

    Raises:
        ValueError: There is none.
    """
    platform.initialize(device)
    platform.init_process_group()
    return only_on_rank_0(lambda: resolve(path))


def config_for_inference(
    path: str | Path,
    overrides: Sequence[str] = (),
    tensor: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> RunConfig:
    """The configuration of a checkpoint under the layout of sampling; arguments as for `load_for_inference`.

    Tokenizers stand there as they were saved.

    Raises:
        ValueError: No complete checkpoint at `path`, a wrong override, or a model that `tensor` does not divide.
    """
    return _for_sampling(override(read_config(resolve(path)), overrides), tensor, device)


def _for_sampling(config: RunConfig, tensor: int, device: Literal["auto", "cpu", "cuda"]) -> RunConfig:
    config = replace(
        config,
        parallel=ParallelConfig(tensor=tensor),
        recompute=RecomputeConfig(),
        training=replace(config.training, backend="local", device=device),  # the backend that decodes with a cache
    )
    return validate(config)
