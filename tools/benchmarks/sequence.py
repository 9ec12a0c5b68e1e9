"""The packed tokens in sequence order, as models see them that do not sort them by expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from mars_megatron.model.attention import RotaryEmbedding
from mars_megatron.sequence import DispatchPlan, combine, permute_rows


@dataclass
class SequenceParams(PackedSeqParams):
    """How the attention of a packed sequence [tokens, ...] reaches right-padded samples [samples, longest, ...].

    The same layout and row copies as those of the project's local attention, so that a contest compares what is
    around it.

    Args:
        plan: The plan of the micro-batch.
        rotary: [2, 1, longest, 1, head_dim].
        padded_to_sequence: int64 [samples * longest]. Token of each place; -1 for padding.
        sequence_to_padded: int64 [tokens]. Place of each token.
    """

    plan: DispatchPlan | None = None
    rotary: Tensor | None = None
    padded_to_sequence: Tensor | None = None
    sequence_to_padded: Tensor | None = None

    @classmethod
    def from_plan(cls, plan: DispatchPlan, rotary: RotaryEmbedding) -> SequenceParams:
        """The layout of the tokens of `plan`, and the rotary embedding of their positions."""
        places = plan.padded_to_sorted
        tokens = plan.sorted_to_sequence[places.clamp(min=0)]
        return cls(
            qkv_format="thd",
            plan=plan,
            rotary=rotary(torch.arange(plan.max_seqlen, device=places.device)[None]),
            padded_to_sequence=torch.where(places < 0, places, tokens),
            sequence_to_padded=combine(plan.sorted_to_padded, plan),
        )

    def to_samples(self, x: Tensor) -> Tensor:
        """[tokens, ...] -> [samples, longest, ...], zeros to the right of each sample."""
        assert self.plan and self.padded_to_sequence is not None and self.sequence_to_padded is not None
        padded = permute_rows(x, self.padded_to_sequence, self.sequence_to_padded)
        return padded.unflatten(0, (self.plan.num_samples, self.plan.max_seqlen))

    def from_samples(self, x: Tensor) -> Tensor:
        """[samples, longest, ...] -> [tokens, ...]."""
        assert self.padded_to_sequence is not None and self.sequence_to_padded is not None
        return permute_rows(x.flatten(0, 1), self.sequence_to_padded, self.padded_to_sequence)
