"""DispatchPlan: the expert and the row of every token of a packed micro-batch, computed once, on the host."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from mars_megatron.sequence import native, reference
from mars_megatron.sequence.reference import TEXT, VISUAL

__all__ = ["TEXT", "VISUAL", "DispatchPlan", "Impl", "build_plan"]

Impl = Literal["auto", "native", "reference"]


@dataclass(frozen=True, eq=False)
class DispatchPlan:
    """Routing of T tokens in S samples to P = padded_text + padded_visual rows.

    There are three layouts of the same tokens:

        sequence  [T]                  as packed: whole samples one after the other
        sorted    [P]                  text rows, text padding, visual rows, visual padding; each part stable
        sample    [S * max_seqlen]     samples padded on the right

    Counts are host integers, so no layer reads one from a device. Tensors are made on the CPU; `to` moves them.

    Args:
        num_tokens: T.
        num_samples: S.
        num_text: Text tokens.
        num_visual: Visual tokens (T - num_text).
        padded_text: Rows of the text part, a positive multiple of row_multiple.
        padded_visual: Rows of the visual part, a positive multiple of row_multiple.
        row_multiple: Both parts are padded to a multiple of this.
        max_seqlen: Length of the longest sample.
        num_text_blocks: Text blocks: maximal runs of text tokens inside one sample.
        image_before_text: Whether some sample has a visual token before a text token. Where it is false
            nothing trainable lies upstream of a text token. With expert_peers, of any of their micro-batches: they
            must agree on the collectives of their backward passes.
        cu_seqlens: int32 [S + 1]. Start of each sample in the sequence, and T.
        position_ids: int64 [P]. Position of each row within its sample; 0 for padding.
        text_block: int64 [P]. Number of a text row's own block (from 1, in sequence order), for a visual row of
            the nearest block before it in its sample; 0 where there is none, and for padding.
        sequence_to_sorted: int64 [T]. Row of each token.
        sorted_to_sequence: int64 [P]. Token of each row; -1 for padding.
        padded_to_sorted: int64 [S * max_seqlen]. Row of each place of the sample layout; -1 for padding.
        sorted_to_padded: int64 [P]. Place of each row in the sample layout; -1 for padding.
        expert_peers: (padded_text, padded_visual) of the micro-batches that the expert-parallel ranks process
            at the same time, in rank order, this one among them; () without expert parallelism. build_plan
            leaves it empty; data.micro_batches sets it (dataclasses.replace).
    """

    num_tokens: int
    num_samples: int
    num_text: int
    num_visual: int
    padded_text: int
    padded_visual: int
    row_multiple: int
    max_seqlen: int
    num_text_blocks: int
    image_before_text: bool
    cu_seqlens: torch.Tensor
    position_ids: torch.Tensor
    text_block: torch.Tensor
    sequence_to_sorted: torch.Tensor
    sorted_to_sequence: torch.Tensor
    padded_to_sorted: torch.Tensor
    sorted_to_padded: torch.Tensor
    expert_peers: tuple[tuple[int, int], ...] = ()

    @property
    def num_rows(self) -> int:
        """P: rows in sorted order, padding included."""
        return self.padded_text + self.padded_visual

    @property
    def expert_splits(self) -> tuple[int, int]:
        """(text, visual) rows in sorted order: sizes of the two parts."""
        return self.padded_text, self.padded_visual

    def rank_splits(self, world: int) -> tuple[int, int]:
        """(text, visual) rows each of `world` ranks holds when the rows are split by sequence parallelism.

        Raises:
            ValueError: `world` does not divide row_multiple, so the parts might not split evenly.
        """
        if world < 1 or self.row_multiple % world != 0:
            raise ValueError(
                f"rows padded to a multiple of {self.row_multiple} do not split over {world} ranks: build "
                f"the plan with a row_multiple that {world} divides"
            )
        return self.padded_text // world, self.padded_visual // world

    def peer_splits(self, modality: int, world: int = 1) -> list[int]:
        """Rows of one modality on each rank of the (expert x tensor) parallel group, tensor-parallel innermost.

        Args:
            modality: TEXT or VISUAL.
            world: Tensor-parallel ranks over which sequence parallelism splits each micro-batch's rows.

        Returns:
            len(expert_peers) * world row counts.

        Raises:
            ValueError: The plan has no expert_peers, or `world` does not divide the rows of one of them.
        """
        if not self.expert_peers:
            raise ValueError("the plan has no expert_peers: fill them in when parallel.expert is above 1")
        rows = [peer[modality] for peer in self.expert_peers]
        if world < 1 or any(count % world != 0 for count in rows):
            raise ValueError(
                f"{rows} rows of the expert-parallel peers do not split over {world} ranks: build their plans "
                f"with a row_multiple that {world} divides"
            )
        return [count // world for count in rows for _ in range(world)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DispatchPlan:
        """The same plan with its tensors on `device` (asynchronously from pinned memory if non_blocking)."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), torch.Tensor):
                moved[field.name] = value.to(device, non_blocking=non_blocking)
        return replace(self, **moved)


def build_plan(
    modality: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    row_multiple: int = 1,
    total_rows: int | None = None,
    impl: Impl = "auto",
) -> DispatchPlan:
    """Build the plan of one packed micro-batch, on the CPU.

    Args:
        modality: uint8 [T], TEXT or VISUAL, in sequence order, without padding.
        cu_seqlens: int32 [S + 1], starting at 0, strictly ascending, ending at T.
        row_multiple: Both parts are padded to a multiple of this (at most 2**31 - 1), and to at least this many
            rows, so that no expert ever sees zero rows.
        total_rows: If given, the text part is padded further so that there are exactly this many rows.
        impl: "native" (C++), "reference" (torch) or "auto": native where the extension is compiled.

    Raises:
        ValueError: An input breaks the above, or the tokens do not fit into total_rows.
        RuntimeError: impl="native" without the compiled extension.
    """
    build = native.extension().build_plan if native.use_native(impl) else reference.build_plan
    return DispatchPlan(**build(modality, cu_seqlens, row_multiple, total_rows))
