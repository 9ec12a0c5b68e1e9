"""Moving rows between the layouts of a DispatchPlan, differentiably."""

from __future__ import annotations

from typing import Any

import torch

from mars_megatron.sequence import native, reference
from mars_megatron.sequence.plan import DispatchPlan, Impl


def permute_rows(
    x: torch.Tensor, index: torch.Tensor, inverse_index: torch.Tensor, impl: Impl = "auto"
) -> torch.Tensor:
    """out[i] = x[index[i]], zeros where index[i] is -1; differentiable, also twice.

    Args:
        x: [rows, ...], any dtype, contiguous or not.
        index: int64 [out rows], each -1 or a row of x, no row twice, on the device of x.
        inverse_index: int64 [rows], the place of each row of x in the output, -1 where it has none. The
            caller guarantees that it is the inverse of index; the backward, the same gather with the indices
            exchanged, relies on it.
        impl: "native" (the operator torch.ops.mars_megatron.permute_rows), "reference" (torch) or "auto":
            native where it is compiled for the device of x.

    Returns:
        [out rows, ...], contiguous, the dtype and device of x.

    Raises:
        ValueError: A shape, dtype or device breaks the above, there are no rows to read or to write, or
            impl="native" on a device that it has no kernel for.
        IndexError: An index is out of range (on CUDA the kernel traps instead).
        RuntimeError: impl="native" without the compiled extension.
    """
    if native.use_native(impl, x.device.type):
        return torch.ops.mars_megatron.permute_rows.default(x, index, inverse_index)
    _check(x, index, inverse_index)
    return _Gather.apply(x, index, inverse_index)


class _Gather(torch.autograd.Function):
    """The reference, with a backward that gathers as well.

    Torch's own would add up rows, on a GPU by atomics, which all the padding sends to row 0.
    """

    @staticmethod
    def forward(x: torch.Tensor, index: torch.Tensor, _inverse_index: torch.Tensor) -> torch.Tensor:
        return reference.permute_rows(x, index)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        context.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(context: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        index, inverse_index = context.saved_tensors
        return _Gather.apply(grad, inverse_index, index), None, None


def _check(x: torch.Tensor, index: torch.Tensor, inverse_index: torch.Tensor) -> None:
    """What the native operator checks too."""
    if index.dtype != torch.int64 or inverse_index.dtype != torch.int64:
        raise ValueError(f"indices must be int64, got {index.dtype} and {inverse_index.dtype}")
    if x.dim() == 0 or index.dim() != 1 or inverse_index.shape != x.shape[:1]:
        raise ValueError(
            "indices must be 1-dimensional, the inverse with one entry for each row of x; got shapes "
            f"{tuple(index.shape)}, {tuple(inverse_index.shape)} and {tuple(x.shape)}"
        )
    if not x.device == index.device == inverse_index.device:
        raise ValueError(
            f"x and its indices must be on one device, got {x.device}, {index.device} and {inverse_index.device}"
        )
    if len(index) == 0 or len(x) == 0:
        raise ValueError(f"there must be rows to read and to write, got {len(x)} and {len(index)}")


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
        raise ValueError(f"expected [{plan.num_samples} samples, {plan.max_seqlen}, ...], got shape {tuple(x.shape)}")
    return permute_rows(x.flatten(0, 1), plan.sorted_to_padded, plan.padded_to_sorted, impl)
