from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mars_megatron.sequence.batch import collate, flatten, unflatten
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=10, codebook_size=4)
EOS = 2
SAMPLES = [
    make_sample(T2I, np.array([5, 6]), np.array([3, 0]), VOCABULARY, EOS),
    make_sample(I2T, np.array([7]), np.array([1, 2]), VOCABULARY, EOS),
    make_sample(TEXT_ONLY, np.array([8, 9]), None, VOCABULARY, EOS),
]


@pytest.mark.parametrize("row_multiple", [1, 4])
def test_every_token_and_target_is_in_its_row(row_multiple):
    batch = collate(SAMPLES, VOCABULARY, row_multiple, total_rows=32, index=7)
    plan = batch.plan
    assert batch.input_ids.shape == (32,) and batch.input_ids.dtype == torch.int64
    assert plan.num_rows == 32 and plan.num_samples == 3 and batch.index == 7
    assert plan.padded_text % row_multiple == 0 and plan.padded_visual % row_multiple == 0

    # back in sequence order, the joined ids are the samples'
    rows = plan.sequence_to_sorted
    ids = batch.input_ids[rows] + torch.where(rows >= plan.padded_text, VOCABULARY.text_size, 0)
    assert ids.tolist() == np.concatenate([s[0] for s in SAMPLES]).tolist()
    padding = plan.sorted_to_sequence < 0
    assert (batch.input_ids[padding] == 0).all() and int(padding.sum()) == 32 - plan.num_tokens

    # every target of the samples is predicted from its own row, text targets first
    assert (batch.num_text_targets, batch.num_visual_targets) == (2 + 2, 3)
    joined = batch.targets.clone()
    joined[batch.num_text_targets :] += VOCABULARY.text_size
    positions = plan.sorted_to_sequence[batch.loss_rows]
    targets = np.concatenate([s[1] for s in SAMPLES])
    mask = np.concatenate([s[2] for s in SAMPLES])
    assert joined.tolist() == targets[positions.numpy()].tolist()
    assert sorted(positions.tolist()) == np.flatnonzero(mask).tolist()
    sample_of_token = np.repeat(np.arange(3), [len(s[0]) for s in SAMPLES])
    assert batch.target_samples.tolist() == sample_of_token[positions.numpy()].tolist()
    for part in positions.split([batch.num_text_targets, batch.num_visual_targets]):
        assert (part.diff() > 0).all()  # in sequence order
    assert (batch.targets[: batch.num_text_targets] < VOCABULARY.text_size).all()
    assert (batch.targets[batch.num_text_targets :] < VOCABULARY.image_size).all()


def test_text_alone_keeps_a_visual_part():
    batch = collate(SAMPLES[2:], VOCABULARY, row_multiple=2, total_rows=16)
    assert batch.plan.num_visual == 0 and batch.plan.padded_visual == 2
    assert (batch.num_text_targets, batch.num_visual_targets) == (2, 0)
    assert batch.targets.tolist() == [9, EOS]


def test_too_many_rows():
    with pytest.raises(ValueError):
        collate(SAMPLES, VOCABULARY, row_multiple=1, total_rows=10)


def test_to_moves_every_tensor():
    batch = collate(SAMPLES, VOCABULARY).to("meta")
    assert {batch.input_ids.device.type, batch.loss_rows.device.type, batch.targets.device.type} == {"meta"}
    assert batch.plan.sequence_to_sorted.device.type == "meta"


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES[2:], SAMPLES[:1]])
def test_flattening_loses_nothing(samples):
    batch = collate(samples, VOCABULARY, row_multiple=4, total_rows=32, index=7, task=T2I)
    batch = replace(batch, plan=replace(batch.plan, expert_peers=((4, 28), batch.plan.expert_splits)))
    values = flatten(batch)
    assert values.dtype == np.int64
    again = unflatten(values, torch.from_numpy(values))
    for ours, theirs, names in ((again, batch, fields(batch)), (again.plan, batch.plan, fields(batch.plan))):
        for name in (field.name for field in names if field.name != "plan"):
            one, other = getattr(ours, name), getattr(theirs, name)
            if isinstance(other, torch.Tensor):
                assert one.dtype == other.dtype and torch.equal(one, other), name
            else:
                assert type(one) is type(other) and one == other, name
