"""The dispatch plan on its way to the layers."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.packed_seq_params import PackedSeqParams

from mars_megatron.sequence import DispatchPlan


@dataclass
class RoutedSeqParams(PackedSeqParams):
    """megatron-core's description of a packed sequence, with the plan that routes its tokens.

    `TransformerBlock` hands this object to every layer and captures it per micro-batch under activation
    recompute, which a value stored on a module would not survive.
    """

    plan: DispatchPlan | None = None

    @classmethod
    def from_plan(cls, plan: DispatchPlan) -> RoutedSeqParams:
        """Describe the packed sequence of `plan`."""
        return cls(
            qkv_format="thd",
            cu_seqlens_q=plan.cu_seqlens,
            cu_seqlens_kv=plan.cu_seqlens,
            max_seqlen_q=plan.max_seqlen,
            max_seqlen_kv=plan.max_seqlen,
            plan=plan,
        )


def plan_of(packed_seq_params: PackedSeqParams | None) -> DispatchPlan:
    """The plan of this micro-batch.

    Raises:
        ValueError: if the layer was called without one: tokens are never routed by guess.
    """
    plan = getattr(packed_seq_params, "plan", None)
    if plan is None:
        raise ValueError(f"SemVIE layers need a RoutedSeqParams with a dispatch plan; got {packed_seq_params!r}")
    return plan
