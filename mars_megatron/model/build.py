"""Builds the model chunks of this rank."""

from __future__ import annotations

from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from mars_megatron import platform
from mars_megatron.config.schema import FreezeConfig, RunConfig
from mars_megatron.model.experts import RMSNorm, expert_of
from mars_megatron.model.initialization import initialize_parameters
from mars_megatron.model.mars import MARSModel


def build_model(config: RunConfig, groups: ProcessGroupCollection, initialize: bool = True) -> list[MARSModel]:
    """This rank's chunks, frozen as configured: one, or `parallel.virtual_pipeline` of them.

    Args:
        config: The run.
        groups: Process groups.
        initialize: Draw random parameters; False where a checkpoint fills all of them.
    """
    chunks = config.parallel.virtual_pipeline
    rank, last = groups.pp.rank(), groups.pp.size() - 1
    models = []
    for chunk in range(chunks):
        model = MARSModel(
            config,
            groups,
            pre_process=rank == 0 and chunk == 0,
            post_process=rank == last and chunk == chunks - 1,
            vp_stage=chunk if chunks > 1 else None,
        ).to(platform.device())
        if initialize:
            initialize_parameters(model, config, groups)
        freeze(model, config.freeze)
        models.append(model)
    return models


def freeze(model: nn.Module, config: FreezeConfig) -> None:
    """Set requires_grad of every parameter by the expert it belongs to."""
    experts = expert_of(model)
    norms = {module.weight for module in model.modules() if isinstance(module, RMSNorm)}
    for name, parameter in model.named_parameters():
        assert parameter in experts, f"{name} belongs to no expert"
        parameter.requires_grad_(not config.of(experts[parameter], is_norm=parameter in norms))
