"""Controls: models that must fail, if it is the trained visual experts that draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mars_megatron.model import MARSModel


def expert_pairs(model: MARSModel) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """The (text, visual) parameters of the same place in all layers; the tables of ids are no experts."""
    parameters = dict(model.named_parameters())
    return [
        (parameter, parameters[name.replace(".text.", ".visual.")])
        for name, parameter in parameters.items()
        if ".text." in name and not name.startswith(("embedding.", "head."))
    ]


@contextmanager
def swap_experts(model: MARSModel) -> Iterator[None]:
    """Every token goes to the expert of the other modality while the context is open."""
    _swap(model)
    try:
        yield
    finally:
        _swap(model)


@contextmanager
def visual_from_text(model: MARSModel) -> Iterator[None]:
    """The visual experts are copies of the text experts while the context is open."""
    pairs = expert_pairs(model)
    kept = [visual.detach().clone() for _, visual in pairs]
    try:
        with torch.no_grad():
            for text, visual in pairs:
                visual.copy_(text)
        yield
    finally:
        with torch.no_grad():
            for (_, visual), before in zip(pairs, kept, strict=True):
                visual.copy_(before)


@torch.no_grad()
def _swap(model: MARSModel) -> None:
    for text, visual in expert_pairs(model):
        before = text.clone()
        text.copy_(visual)
        visual.copy_(before)
