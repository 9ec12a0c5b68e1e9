"""Moving rows between the layouts of a DispatchPlan, differentiably."""

from __future__ import annotations

from typing import Any

import torch

from mars_megatron.ops import native, reference
from mars_megatron.ops.plan import DispatchPlan, Impl


class _PermuteRows(torch.autograd.Function):
    """Gather rows by index; the backward gathers by the inverse, which is the scatter of the forward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse_index: torch.Tensor, impl: Impl
    ) -> torch.Tensor:
        ctx.save_for_backward(index, inverse_index)
        ctx.impl = impl
        permute = native.extension().permute_rows if native.use_native(impl, x) else reference.permute_rows
        return permute(x, index)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        index, inverse_index = ctx.saved_tensors
        return _PermuteRows.apply(grad, inverse_index, index, ctx.impl), None, None, None


def permute_rows(
    x: torch.Tensor, index: torch.Tensor, inverse_index: torch.Tensor, impl: Impl = "auto"
) -> torch.Tensor:
    """out[i] = x[index[i]], zeros where index[i] is -1.

    Args:
        x: [rows, ...], any dtype, contiguous or not.
        index: int64 [out rows], each -1 or a row of x, no row twice, on the device of x.
        inverse_index: int64 [rows], the place of each row of x in the output, -1 where it has none. The
            caller guarantees that it is the inverse of index; the backward relies on it.
        impl: "native" (C++), "reference" (torch) or "auto": native where it is compiled and x is on the CPU.

    Returns:
        [out rows, ...], contiguous, the dtype and device of x.

    Raises:
        ValueError: A shape or dtype breaks the above, there are no rows to read or to write, or impl="native"
            and the tensors are not on the CPU.
        IndexError: An index is out of range.
        RuntimeError: impl="native" without the compiled extension.
    """
    if index.dtype != torch.int64 or inverse_index.dtype != torch.int64:
        raise ValueError(f"indices must be int64, got {index.dtype} and {inverse_index.dtype}")
    if x.dim() == 0 or index.dim() != 1 or inverse_index.shape != x.shape[:1]:
        raise ValueError(
            "indices must be 1-dimensional, the inverse with one entry for each row of x; got shapes "
            f"{tuple(index.shape)}, {tuple(inverse_index.shape)} and {tuple(x.shape)}"
        )
    if len(index) == 0 or len(inverse_index) == 0:
        raise ValueError(f"there must be rows to read and to write, got {len(x)} and {len(index)}")
    return _PermuteRows.apply(x, index, inverse_index, impl)


def dispatch(x: torch.Tensor, plan: DispatchPlan, impl: Impl = "auto") -> torch.Tensor:
    """Sequence order [T, ...] -> sorted order [P, ...]; padding rows are zero."""
    return permute_rows(x, plan.sorted_to_sequence, plan.sequence_to_sorted, impl)


def combine(x: torch.Tensor, plan: DispatchPlan, impl: Impl = "auto") -> torch.Tensor:
    """Sorted order [P, ...] -> sequence order [T, ...]; padding rows are dropped."""
    return permute_rows(x, plan.sequence_to_sorted, plan.sorted_to_sequence, impl)


def to_samples(x: torch.Tensor, plan: DispatchPlan, impl: Impl = "auto") -> torch.Tensor:
    """Sorted order [P, ...] -> samples [S, max_seqlen, ...], zeros to the right of each."""
    out = permute_rows(x, plan.padded_to_sorted, plan.sorted_to_padded, impl)
    return out.view(plan.num_samples, plan.max_seqlen, *x.shape[1:])


def from_samples(x: torch.Tensor, plan: DispatchPlan, impl: Impl = "auto") -> torch.Tensor:
    """Samples [S, max_seqlen, ...] -> sorted order [P, ...]; padding rows are zero."""
    if x.shape[:2] != (plan.num_samples, plan.max_seqlen):
        raise ValueError(
            f"expected [{plan.num_samples} samples, {plan.max_seqlen}, ...], got shape {tuple(x.shape)}"
        )
    return permute_rows(x.flatten(0, 1), plan.sorted_to_padded, plan.padded_to_sorted, impl)
