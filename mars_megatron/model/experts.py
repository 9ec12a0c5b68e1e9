"""Two experts side by side: the unit from which every SemVIE sub-layer is built."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.sequence import TEXT, VISUAL


class Rows(NamedTuple):
    """The local rows of the residual stream, or of anything computed from it, by expert.

    Attributes:
        text: [local text rows, 1, ...].
        visual: [local visual rows, 1, ...].
        text_has_grad: False where nothing upstream of a text row is trainable; the text part is then
            computed without autograd.
    """

    text: Tensor
    visual: Tensor
    text_has_grad: bool

    def with_parts(self, text: Tensor, visual: Tensor) -> Rows:
        """The same routing with other contents."""
        return Rows(text, visual, self.text_has_grad)

    def text_grad(self) -> AbstractContextManager:
        """The context in which the text part is computed."""
        return nullcontext() if self.text_has_grad else torch.no_grad()

    def joined(self) -> Tensor:
        """[text rows + visual rows, 1, ...], text first."""
        return torch.cat((self.text, self.visual))

    def add(self, other: Rows) -> Rows:
        """Element-wise sum (the residual connection)."""
        return self.with_parts(self.text + other.text, self.visual + other.visual)


def split_rows(hidden: Tensor, num_text: int, text_has_grad: bool) -> Rows:
    """Split sorted rows into the experts' parts.

    Args:
        hidden: [local rows, 1, hidden], text rows first.
        num_text: Local text rows (host integer).
        text_has_grad: See `Rows`; when False the text part is detached.
    """
    text, visual = hidden.split((num_text, hidden.shape[0] - num_text))
    return Rows(text if text_has_grad else text.detach(), visual, text_has_grad)


class Experts(MegatronModule):
    """A text and a visual module of the same shape, each applied to its own rows.

    Args:
        config: megatron-core configuration.
        build: Makes one module; called twice, or once when one serves both modalities.
        tp_group: Tensor-parallel group (used when sharding checkpoints).
        shared: One module, called `shared`, serves both modalities.
        visual_is_text: One module, called `text` as a language model's is, serves both; not with `shared`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        build: Callable[[], nn.Module],
        tp_group: torch.distributed.ProcessGroup,
        shared: bool = False,
        visual_is_text: bool = False,
    ) -> None:
        super().__init__(config)
        assert not (shared and visual_is_text)
        self.tp_group = tp_group
        self.is_shared = shared
        if shared:
            self.shared = build()
        else:
            self.text = build()
            if visual_is_text:
                serve_visual_by_text(self)
            else:
                self.visual = build()

    def of(self, modality: int) -> nn.Module:
        """The module that serves TEXT or VISUAL."""
        if self.is_shared:
            return self.shared
        return self.text if modality == TEXT else self.visual

    def forward(self, rows: Rows) -> Rows:
        """Apply each expert to its rows. Modules returning (output, bias) must return no bias."""
        with rows.text_grad():
            text = _output(self.of(TEXT)(rows.text))
        return rows.with_parts(text, _output(self.of(VISUAL)(rows.visual)))


def serve_visual_by_text(experts: nn.Module) -> None:
    """Let `experts.visual` be the module `experts.text`, whose parameters then have one name and one place."""
    object.__setattr__(experts, "visual", experts.text)  # nn.Module's own would register it a second time


def _output(result: Tensor | tuple[Tensor, Tensor | None]) -> Tensor:
    if isinstance(result, tuple):
        output, bias = result
        assert bias is None, "expert modules add their own bias"
        return output
    return result
