"""The specification of the native operators, in plain torch. Runs on any device."""

from __future__ import annotations

from typing import Any

import torch

# The modalities a token can have; every token goes to the expert of its own.
TEXT = 0
VISUAL = 1

_MAX_TOKENS = torch.iinfo(torch.int32).max  # what int32 offsets can count


def build_plan(
    modality: torch.Tensor, cu_seqlens: torch.Tensor, row_multiple: int, total_rows: int | None
) -> dict[str, Any]:
    """Fields of the DispatchPlan of modality uint8 [T] and cu_seqlens int32 [S + 1]; see plan.build_plan."""
    _check_inputs(modality, cu_seqlens, row_multiple)
    num_tokens, num_samples = len(modality), len(cu_seqlens) - 1
    is_visual = modality == VISUAL  # [T]
    num_visual = int(is_visual.sum())
    num_text = num_tokens - num_visual
    padded_text, padded_visual = padded_counts(num_text, num_visual, row_multiple, total_rows)
    num_rows = padded_text + padded_visual

    token = torch.arange(num_tokens)
    visual_rank = is_visual.cumsum(0) - 1  # [T] how many visual tokens came before
    text_rank = token - visual_rank - 1
    sequence_to_sorted = torch.where(is_visual, padded_text + visual_rank, text_rank)  # [T]

    lengths = cu_seqlens.long().diff()  # [S]
    max_seqlen = int(lengths.max())
    start = cu_seqlens[:-1].long().repeat_interleave(lengths)  # [T] where the sample of each token starts
    sample = torch.arange(num_samples).repeat_interleave(lengths)  # [T]
    place = sample * max_seqlen + token - start  # [T] in the sample layout
    follows_image = visual_rank + 1 > _before_sample(visual_rank + 1, start)  # [T] in the same sample, or is one

    after_visual = torch.cat([is_visual.new_ones(1), is_visual[:-1]])  # [T]
    block = (~is_visual & (after_visual | (token == start))).cumsum(0)  # [T] text blocks begun up to here
    text_block = torch.where(block > _before_sample(block, start), block, 0)

    return {
        "num_tokens": num_tokens,
        "num_samples": num_samples,
        "num_text": num_text,
        "num_visual": num_visual,
        "padded_text": padded_text,
        "padded_visual": padded_visual,
        "row_multiple": row_multiple,
        "max_seqlen": max_seqlen,
        "num_text_blocks": int(block[-1]),
        "image_before_text": bool((follows_image & ~is_visual).any()),
        "cu_seqlens": cu_seqlens.clone(),
        "position_ids": _scatter(num_rows, 0, sequence_to_sorted, token - start),
        "text_block": _scatter(num_rows, 0, sequence_to_sorted, text_block),
        "sequence_to_sorted": sequence_to_sorted,
        "sorted_to_sequence": _scatter(num_rows, -1, sequence_to_sorted, token),
        "padded_to_sorted": _scatter(num_samples * max_seqlen, -1, place, sequence_to_sorted),
        "sorted_to_padded": _scatter(num_rows, -1, sequence_to_sorted, place),
    }


def padded_counts(
    num_text: int, num_visual: int, row_multiple: int = 1, total_rows: int | None = None
) -> tuple[int, int]:
    """(padded_text, padded_visual) of the plan of so many tokens; see plan.build_plan.

    Raises:
        ValueError: The tokens do not fit into total_rows, or it is no multiple of row_multiple.
    """
    padded_text, padded_visual = (max(-(-count // row_multiple), 1) * row_multiple for count in (num_text, num_visual))
    if total_rows is None:
        return padded_text, padded_visual
    if total_rows % row_multiple != 0:
        raise ValueError(f"total_rows must be a multiple of row_multiple {row_multiple}, got {total_rows}")
    if padded_text + padded_visual > total_rows:
        raise ValueError(
            f"total_rows {total_rows} is too small: {num_text} text and {num_visual} visual tokens need "
            f"{padded_text} + {padded_visual} rows"
        )
    return total_rows - padded_visual, padded_visual


def permute_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """out[i] = x[index[i]], zeros where index[i] is -1.

    Differentiable by ordinary autograd, and free of anything a device would have to report to the host.

    Args:
        x: [rows, ...], any dtype that torch's index_select and where have.
        index: int64 [out rows], each -1 or a row of x, on the device of x.

    Raises:
        IndexError: An index is out of range (a device-side assertion on CUDA).
    """
    padding = index == -1
    out = x.index_select(0, torch.where(padding, 0, index))
    return torch.where(padding.view(-1, *[1] * (x.dim() - 1)), x.new_zeros(()), out)


def _check_tensor(name: str, value: torch.Tensor, dtype: torch.dtype, dim: int) -> None:
    if value.dtype != dtype or value.dim() != dim or value.device.type != "cpu" or value.layout != torch.strided:
        raise ValueError(
            f"{name} must be a {dim}-dimensional {dtype} tensor on the CPU, got {value.dim()} dimensions, "
            f"{value.dtype}, {value.device}, layout {value.layout}"
        )


def _check_inputs(modality: torch.Tensor, cu_seqlens: torch.Tensor, row_multiple: int) -> None:
    _check_tensor("modality", modality, torch.uint8, 1)
    _check_tensor("cu_seqlens", cu_seqlens, torch.int32, 1)
    if not 1 <= row_multiple <= _MAX_TOKENS:
        raise ValueError(f"row_multiple must be from 1 to {_MAX_TOKENS}, got {row_multiple}")
    if len(cu_seqlens) < 2:
        raise ValueError(f"cu_seqlens must have at least 2 entries (one sample), got {len(cu_seqlens)}")
    if cu_seqlens[0] != 0 or cu_seqlens[-1] != len(modality):
        raise ValueError(
            f"cu_seqlens must start at 0 and end at the number of tokens, {len(modality)}, got "
            f"{int(cu_seqlens[0])} and {int(cu_seqlens[-1])}"
        )
    empty = (cu_seqlens[1:] <= cu_seqlens[:-1]).nonzero()
    if len(empty) > 0:
        raise ValueError(f"cu_seqlens must ascend strictly (no empty sample), not at sample {int(empty[0])}")
    wrong = ((modality != TEXT) & (modality != VISUAL)).nonzero()
    if len(wrong) > 0:
        token = int(wrong[0])
        raise ValueError(f"modality must be 0 (text) or 1 (visual), got {modality[token]} at token {token}")


def _before_sample(count: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The running count [T] as it stood before the sample of each token, which starts at start [T]."""
    return torch.where(start > 0, count[(start - 1).clamp(min=0)], 0)


def _scatter(size: int, fill: int, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """int64 [size] holding values at index and fill elsewhere."""
    out = torch.full((size,), fill, dtype=torch.int64)
    out[index] = values
    return out
