"""The distribution of tokens over experts, which a run logs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron import platform
from mars_megatron.config.schema import RunConfig
from mars_megatron.model import MARSModel


def expert_report(chunks: Sequence[MARSModel], config: RunConfig) -> dict[str, float | list[list[float]] | None]:
    """Loads and auxiliary losses since the last report, over all ranks; every rank must call it.

    Returns:
        For each modality with more than one expert: `<modality>_expert_load`, the share of the tokens that each
        expert of each layer got (of each layer the sum is 1); the largest and smallest of them relative to an equal
        share; and the means per token of the load-balancing loss (1 where balanced) and of the z-loss. Empty
        without learned routing; None where there were no tokens.
    """
    values: dict[str, float | list[list[float]] | None] = {}
    for modality in ("text", "visual"):
        number = getattr(config.experts, modality)
        if number == 1:
            continue
        totals = torch.zeros(config.model.num_layers, number + 2, dtype=torch.float64, device=platform.device())
        for chunk in chunks:
            for layer in chunk.decoder.layers:
                router = getattr(layer.mlp, modality).router
                totals[layer.layer_number - 1] = torch.cat((router.load, router.losses))
                router.load.zero_()
                router.losses.zero_()
        # Each rank's own tokens, each stage's own layers.
        torch.distributed.all_reduce(totals)
        values.update(_summary(modality, totals.cpu(), number, config.router.top_k))
    return values


def _summary(
    modality: str, totals: torch.Tensor, number: int, top_k: int
) -> dict[str, float | list[list[float]] | None]:
    loads, losses = totals.split((number, 2), dim=1)
    choices = loads.sum(1, keepdim=True)
    if not choices.all():
        names = ("expert_load", "expert_load_max", "expert_load_min", "balance_loss", "router_z_loss")
        return dict.fromkeys((f"{modality}_{name}" for name in names), None)
    shares = loads / choices
    balance, z_loss = (losses / choices * top_k).mean(0).tolist()
    return {
        f"{modality}_expert_load": shares.tolist(),
        f"{modality}_expert_load_max": float(shares.max()) * number,
        f"{modality}_expert_load_min": float(shares.min()) * number,
        f"{modality}_balance_loss": balance,
        f"{modality}_router_z_loss": z_loss,
    }
