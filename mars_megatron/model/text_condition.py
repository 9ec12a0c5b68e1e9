"""What the text in front of an image says to a router: the mean state of the nearest block of text."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, reduce_from_tensor_model_parallel_region
from torch import Tensor

from mars_megatron.model.experts import Rows
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.sequence import DispatchPlan


class TextCondition:
    """Mean of the text rows of the nearest block of text in front of each visual row; zero where there is none.

    Only text in front counts, as in attention: a caption behind an image must not tell the image's tokens what the
    loss on the caption asks for.

    Args:
        tp_group: Tensor-parallel group if its ranks hold shares of the rows (sequence parallelism), else None.
    """

    def __init__(self, tp_group: torch.distributed.ProcessGroup | None) -> None:
        self.tp_group = tp_group

    def __call__(self, rows: Rows, plan: DispatchPlan, cache: KVCache | None, layer: int) -> Tensor:
        """fp32 [local visual rows, 1, hidden].

        Args:
            rows: Local rows [local rows, 1, hidden] of the state to pool.
            plan: Says which block each row belongs to.
            cache: Keeps the last block of each sample between calls, when decoding.
            layer: Number of the layer, under which the cache keeps it.
        """
        text_block, visual_block = plan.text_block.split(plan.expert_splits)
        counted = _with_count(rows.text) * (self._local(text_block) > 0)[:, None]  # without padding
        if cache is not None and not cache.is_empty:
            return self._decode(counted, plan, cache, layer)
        blocks = self._sum(counted, self._local(text_block), plan.num_text_blocks + 1)
        if cache is not None:
            cache.text[layer] = _last_blocks(blocks, text_block, plan)
        return _mean(blocks.index_select(0, self._local(visual_block)))

    def _decode(self, counted: Tensor, plan: DispatchPlan, cache: KVCache, layer: int) -> Tensor:
        """One new token per sample: a text token goes on with the block or begins one, a visual token reads it."""
        kept, was_text = cache.text[layer]
        text_sample, visual_sample = (self._local(part) for part in _sample_of_row(plan).split(plan.expert_splits))
        new, is_text = self._sum(counted, text_sample, plan.num_samples), _ends_in_text(plan)
        kept = torch.where(is_text[:, None], kept * was_text[:, None] + new, kept)
        cache.text[layer] = kept, is_text
        return _mean(kept.index_select(0, visual_sample))

    def _sum(self, counted: Tensor, index: Tensor, number: int) -> Tensor:
        """[number, hidden + 1]: sums of the rows of all ranks with each index."""
        sums = counted.new_zeros(number, counted.shape[1]).index_add(0, index, counted)
        if self.tp_group is None:
            return sums
        # Every rank's visual rows read the sum, so its gradient is summed over the ranks as well.
        return copy_to_tensor_model_parallel_region(
            reduce_from_tensor_model_parallel_region(sums, self.tp_group), self.tp_group
        )

    def _local(self, rows: Tensor) -> Tensor:
        """This rank's share of something of every row of a modality."""
        if self.tp_group is None:
            return rows
        return rows.chunk(self.tp_group.size())[self.tp_group.rank()]


def _with_count(states: Tensor) -> Tensor:
    """[rows, 1, hidden] -> fp32 [rows, hidden + 1]: what is summed, with a one that counts."""
    flat = states.squeeze(1).float()
    return torch.cat((flat, flat.new_ones(len(flat), 1)), 1)


def _mean(sums: Tensor) -> Tensor:
    """[rows, hidden + 1] -> [rows, 1, hidden]."""
    return (sums[:, :-1] / sums[:, -1:].clamp(min=1))[:, None]


def _sample_of_row(plan: DispatchPlan) -> Tensor:
    """int64 [rows]; 0 for padding."""
    return plan.sorted_to_padded.clamp(min=0) // plan.max_seqlen


def _ends_in_text(plan: DispatchPlan) -> Tensor:
    """bool [samples]."""
    return plan.sequence_to_sorted[plan.cu_seqlens[1:].long() - 1] < plan.padded_text


def _last_blocks(blocks: Tensor, text_block: Tensor, plan: DispatchPlan) -> tuple[Tensor, Tensor]:
    """What the cache keeps: the sum of each sample's last block (zero without one), and whether it may go on."""
    sample = _sample_of_row(plan)[: plan.padded_text]
    last = text_block.new_zeros(plan.num_samples).scatter_reduce(0, sample, text_block, "amax")
    return blocks[last], _ends_in_text(plan)
