"""Batches of prefixes and of steps."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.sampling.decoding import DecodeStep, pack_samples, sample_lengths
from mars_megatron.sequence import TEXT, VISUAL
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.plans import check_plan


def test_prefixes_ask_for_the_last_token_of_each_sample(vocabulary: Vocabulary) -> None:
    samples = [[3, 4, vocabulary.boi], [vocabulary.boi, 5], [6]]
    batch = pack_samples(samples, vocabulary)
    check_plan(batch.plan)
    asked = batch.plan.sorted_to_sequence[batch.loss_rows]
    assert asked.tolist() == [2, 4, 5]
    # the first is a row of the image table, the others are text ids
    assert batch.input_ids[batch.loss_rows].tolist() == [vocabulary.image_row(vocabulary.boi), 5, 6]
    assert sample_lengths(batch.plan).tolist() == [3, 2, 1]


@pytest.mark.parametrize("modality", [TEXT, VISUAL])
@pytest.mark.parametrize("row_multiple", [1, 4])
def test_steps_are_the_batches_of_their_ids(vocabulary: Vocabulary, modality: int, row_multiple: int) -> None:
    step = DecodeStep.build(6, modality, vocabulary, row_multiple)
    start = vocabulary.text_size if modality == VISUAL else 0
    for ids in (torch.arange(start, start + 6), torch.arange(start + 9, start + 3, -1)):
        batch = step.batch(ids)
        whole = pack_samples(ids[:, None].tolist(), vocabulary, row_multiple)
        assert torch.equal(batch.input_ids, whole.input_ids)
        assert torch.equal(batch.loss_rows, whole.loss_rows)
        assert torch.equal(batch.plan.padded_to_sorted, whole.plan.padded_to_sorted)
    assert batch.plan.num_rows % row_multiple == 0
