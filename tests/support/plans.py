"""What holds of every dispatch plan."""

from __future__ import annotations

import torch

from mars_megatron.sequence import DispatchPlan


def check_plan(plan: DispatchPlan) -> None:
    """Assert that counts and permutations agree with one another."""
    T, S, P = plan.num_tokens, plan.num_samples, plan.num_rows
    assert plan.num_text + plan.num_visual == T and plan.num_text >= 0 and plan.num_visual >= 0
    for count, padded in ((plan.num_text, plan.padded_text), (plan.num_visual, plan.padded_visual)):
        assert padded >= max(count, 1) and padded % plan.row_multiple == 0

    assert plan.cu_seqlens.dtype == torch.int32 and plan.cu_seqlens.shape == (S + 1,)
    lengths = plan.cu_seqlens.diff().long()
    assert plan.cu_seqlens[0] == 0 and plan.cu_seqlens[-1] == T and (lengths > 0).all()
    assert lengths.max() == plan.max_seqlen

    _assert_inverse(plan.sequence_to_sorted, plan.sorted_to_sequence, T, P)
    _assert_inverse(plan.padded_to_sorted, plan.sorted_to_padded, S * plan.max_seqlen, P)
    token_of_row = plan.sorted_to_sequence
    assert ((token_of_row >= 0) == (plan.sorted_to_padded >= 0)).all()
    for part in token_of_row.split(plan.expert_splits):  # stable inside each modality
        assert (part[part >= 0].diff() > 0).all()

    positions = torch.arange(T, device=lengths.device) - plan.cu_seqlens[:-1].repeat_interleave(lengths)
    assert (plan.position_ids[plan.sequence_to_sorted] == positions).all()
    assert (plan.position_ids[token_of_row < 0] == 0).all()
    _check_text_blocks(plan)
    assert not plan.expert_peers or plan.expert_splits in plan.expert_peers


def _check_text_blocks(plan: DispatchPlan) -> None:
    starts = set(plan.cu_seqlens.tolist())
    is_visual = (plan.sequence_to_sorted >= plan.padded_text).tolist()
    count = block = 0  # blocks so far, the last one of this sample
    expected = []
    for token, visual in enumerate(is_visual):
        if token in starts:
            block = 0
        if not visual and (token in starts or is_visual[token - 1]):
            count += 1
            block = count
        expected.append(block)
    assert plan.num_text_blocks == count
    assert plan.text_block.dtype == torch.int64 and plan.text_block.shape == (plan.num_rows,)
    assert plan.text_block[plan.sequence_to_sorted].tolist() == expected
    assert (plan.text_block[plan.sorted_to_sequence < 0] == 0).all()


def _assert_inverse(index: torch.Tensor, inverse: torch.Tensor, size: int, inverse_size: int) -> None:
    """Assert that index [size] and inverse [inverse_size] undo each other wherever they are not -1."""
    assert index.dtype == inverse.dtype == torch.int64
    assert index.shape == (size,) and inverse.shape == (inverse_size,)
    places = (index >= 0).nonzero()[:, 0]
    assert (inverse[index[places]] == places).all()
    assert (inverse >= 0).sum() == len(places)
