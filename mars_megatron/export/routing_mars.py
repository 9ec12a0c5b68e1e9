"""Which expert each token goes to, decided once per forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    """A dataclass with all that can be moved on `device`."""
    parts = {field.name: getattr(value, field.name) for field in fields(value)}
    moved = {name: part.to(device, non_blocking=non_blocking) for name, part in parts.items() if hasattr(part, "to")}
    return replace(value, **moved)


@dataclass(frozen=True)
class TextBlocks:
    """Runs of text tokens in the samples of a batch, for routers that see the text in front of an image.

    Args:
        number: Blocks kept per sample: the one going on from the cache (0) and those that begin here.
        counted: fp32 [text rows, 1]: 1 for text, 0 for padding.
        text: int64 [text rows]: place of each text row's block in [samples * number].
        visual: int64 [visual rows]: place of the nearest block in front of each visual row.
        last: int64 [samples]: place of each sample's last block.
        ends_in_text: bool [samples]: whether that block may go on.
    """

    number: int
    counted: Tensor
    text: Tensor
    visual: Tensor
    last: Tensor
    ends_in_text: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TextBlocks:
        """The same on another device."""
        return _moved(self, device, non_blocking)


@dataclass(frozen=True)
class Routing:
    """The tokens of a batch sorted by expert: rows `[text | visual]`, each part in sequence order.

    Args:
        num_text: Text rows (host integer); padding is among them.
        shape: (samples, length) of the batch.
        order: int64 [rows]: token of each row; None where sorting changes nothing.
        inverse: int64 [tokens]: row of each token; None likewise.
        blocks: Text blocks, where a router asks for them.
    """

    num_text: int
    shape: tuple[int, int]
    order: Tensor | None
    inverse: Tensor | None
    blocks: TextBlocks | None = None

    @classmethod
    def build(cls, visual: Tensor) -> Routing:
        """From bool [samples, length]. Reads one count from the device."""
        samples, length = visual.shape
        flat = visual.flatten()
        num_text = flat.numel() - int(flat.sum())
        if num_text in (0, flat.numel()):
            return cls(num_text, (samples, length), None, None)
        order = flat.to(torch.uint8).argsort(stable=True)
        return cls(num_text, (samples, length), order, order.argsort())

    def with_blocks(self, blocks: TextBlocks) -> Routing:
        """The same with text blocks."""
        return replace(self, blocks=blocks)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Routing:
        """The same on another device; accelerate asks for it where layers lie on several."""
        return _moved(self, device, non_blocking)

    def sort(self, tokens: Tensor) -> Tensor:
        """[samples, length, ...] -> rows [rows, ...]."""
        flat = tokens.flatten(0, 1)
        return flat if self.order is None else flat.index_select(0, self.order)

    def restore(self, rows: Tensor) -> Tensor:
        """Rows [rows, ...] -> [samples, length, ...]."""
        flat = rows if self.inverse is None else rows.index_select(0, self.inverse)
        return flat.unflatten(0, self.shape)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows -> text rows and visual rows (views)."""
        return rows[: self.num_text], rows[self.num_text :]

    def apply(self, text: Callable[[Tensor], Tensor], visual: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Give each expert its rows. While training both run, on no rows too: every parameter gets a gradient."""
        if not torch.is_grad_enabled():
            if self.num_text == 0:
                return visual(rows)
            if self.num_text == len(rows):
                return text(rows)
        text_rows, visual_rows = self.split(rows)
        return torch.cat((text(text_rows), visual(visual_rows)))


def build_blocks(routing: Routing, visual: Tensor, real: Tensor, was_text: Tensor | None) -> TextBlocks:
    """Number the text blocks of a batch.

    Args:
        routing: Order of the rows.
        visual: bool [samples, length].
        real: bool [samples, length]: tokens that are not padding.
        was_text: bool [samples]: whether the last token in the cache was text; None without a cache.
    """
    samples, length = visual.shape
    text = real & ~visual
    if was_text is None:
        was_text = text.new_zeros(samples)
    # Last real token up to each place, counted from 1; 0 is the cache's.
    place = torch.arange(1, length + 1, device=visual.device)
    latest = torch.where(real, place, 0).cummax(1).values
    states = torch.cat((was_text[:, None], text), 1)
    before = torch.cat((latest.new_zeros(samples, 1), latest[:, :-1]), 1)
    begins = text & ~states.gather(1, before)
    block = begins.long().cumsum(1)
    number = int(block[:, -1].max()) + 1
    offset = torch.arange(samples, device=visual.device) * number
    text_rows, visual_rows = routing.split(routing.sort(block + offset[:, None]))
    counted, _ = routing.split(routing.sort(text))
    return TextBlocks(
        number=number,
        counted=counted[:, None].float(),
        text=text_rows,
        visual=visual_rows,
        last=block[:, -1] + offset,
        ends_in_text=states.gather(1, latest[:, -1:]).squeeze(1),
    )


class MarsRMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> the same shape and dtype."""
        return nn.functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class MarsExpertNorm(nn.Module):
    """An RMSNorm for each modality."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.text = MarsRMSNorm(size, eps)
        self.visual = MarsRMSNorm(size, eps)


def build_norm(size: int, eps: float, per_expert: bool) -> MarsRMSNorm | MarsExpertNorm:
    """One norm for both modalities, or one for each; `apply_norm` runs it."""
    return MarsExpertNorm(size, eps) if per_expert else MarsRMSNorm(size, eps)


def apply_norm(norm: nn.Module, rows: Tensor, routing: Routing) -> Tensor:
    """Sorted rows -> the same, normalised."""
    if isinstance(norm, MarsExpertNorm):
        return routing.apply(norm.text, norm.visual, rows)
    return norm(rows)


class MarsEmbedding(nn.Module):
    """Text rows and image rows of the joined id space, in two tables."""

    def __init__(self, text_size: int, visual_size: int, hidden_size: int) -> None:
        super().__init__()
        self.text = nn.Embedding(text_size, hidden_size)
        self.visual = nn.Embedding(visual_size, hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Joined ids int64 [...] -> [..., hidden]."""
        size = self.text.num_embeddings
        visual = input_ids >= size
        rows = self.text(input_ids.masked_fill(visual, 0))
        return torch.where(visual[..., None], self.visual((input_ids - size).clamp(min=0)), rows)


class MarsRows(nn.Module):
    """Rows of the head. Not an `nn.Linear`: adapters and quantisers that take all of those leave the head alone."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., size]."""
        return nn.functional.linear(hidden, self.weight)


class MarsHead(nn.Module):
    """Logits over the joined id space, from two tables."""

    def __init__(self, text_size: int, visual_size: int, hidden_size: int) -> None:
        super().__init__()
        self.text = MarsRows(text_size, hidden_size)
        self.visual = MarsRows(visual_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., text_size + visual_size]."""
        return torch.cat((self.text(hidden), self.visual(hidden)), dim=-1)
