"""Token dispatch: the plan of a micro-batch, and the row copies that follow it."""

from mars_megatron.ops.modality import TEXT, VISUAL
from mars_megatron.ops.native import native_available
from mars_megatron.ops.plan import DispatchPlan, build_plan, build_plan_from_segments
from mars_megatron.ops.reference import padded_counts
from mars_megatron.ops.rows import combine, dispatch, from_samples, permute_rows, to_samples

__all__ = [
    "TEXT",
    "VISUAL",
    "DispatchPlan",
    "build_plan",
    "build_plan_from_segments",
    "combine",
    "dispatch",
    "from_samples",
    "native_available",
    "padded_counts",
    "permute_rows",
    "to_samples",
]
