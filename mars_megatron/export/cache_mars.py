"""The cache of a model whose routers are conditioned on text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache

# Per sample: the sum of its last text block with a count behind, fp32 [samples, hidden + 1], and whether it may go
# on, bool [samples].
TextState = tuple[Tensor, Tensor]


class MarsCache(DynamicCache):
    """Keys and values, and per layer the text that a conditioned router needs of earlier tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.text: dict[int, TextState] = {}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beams."""
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sample."""
        super().batch_repeat_interleave(repeats)
        self.text = {
            layer: (total.repeat_interleave(repeats, 0), was_text.repeat_interleave(repeats, 0))
            for layer, (total, was_text) in self.text.items()
        }

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Refused.

        Raises:
            ValueError: Always: sums of text cannot be taken back.
        """
        raise ValueError(
            "this model's router is conditioned on text (router_condition), whose state cannot be cropped: accepted "
            "are greedy search, sampling and beam search, not assisted decoding"
        )

    def _select(self, indices: Tensor) -> None:
        self.text = {
            layer: (total[indices.to(total.device)], was_text[indices.to(total.device)])
            for layer, (total, was_text) in self.text.items()
        }
