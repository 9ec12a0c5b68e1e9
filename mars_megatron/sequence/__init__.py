"""One packed sequence: vocabulary, samples, batch, dispatch plan, and the row copies of the plan."""

from mars_megatron.sequence.native import native_available
from mars_megatron.sequence.plan import DispatchPlan, build_plan
from mars_megatron.sequence.reference import TEXT, VISUAL, padded_counts
from mars_megatron.sequence.rows import combine, dispatch, from_samples, permute_rows, to_samples

__all__ = [
    "TEXT",
    "VISUAL",
    "DispatchPlan",
    "build_plan",
    "combine",
    "dispatch",
    "from_samples",
    "native_available",
    "padded_counts",
    "permute_rows",
    "to_samples",
]
