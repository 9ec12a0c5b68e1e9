"""Controls: models that must fail, if it is the trained visual experts that draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mars_megatron.model import MARSModel
from mars_megatron.model.experts import Experts
from mars_megatron.model.feed_forward import FeedForward

Pair = Experts | FeedForward


def expert_pairs(model: MARSModel) -> list[Pair]:
    """Every module that has a `text` and a `visual` expert; the tables of ids are no experts.

    Raises:
        ValueError: The model has no visual experts.
    """
    pairs = (module for module in model.modules() if isinstance(module, (Experts, FeedForward)))
    found = [pair for pair in pairs if "shared" not in pair.names]
    if any("visual" not in pair.names for pair in found):
        raise ValueError(
            "model.shared_experts is true: controls exchange text and visual experts, and this model has one for both"
        )
    return found


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
    """Visual tokens go to the text experts as well while the context is open."""
    pairs = expert_pairs(model)
    kept = [pair.visual for pair in pairs]
    try:
        for pair in pairs:
            pair.visual = pair.text
        yield
    finally:
        for pair, visual in zip(pairs, kept, strict=True):
            pair.visual = visual


def _swap(model: MARSModel) -> None:
    for pair in expert_pairs(model):
        pair.text, pair.visual = pair.visual, pair.text
