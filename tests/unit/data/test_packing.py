import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_megatron.data.packing import interleave, pack

BUDGET = 64


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, BUDGET), max_size=120), st.integers(1, 8))
def test_packing_never_exceeds_the_budget_and_loses_nothing(lengths, open_packs):
    lengths = np.array(lengths, dtype=np.int64)
    members, offsets = pack(lengths, BUDGET, open_packs)
    assert sorted(members.tolist()) == list(range(len(lengths)))
    assert offsets[0] == 0 and offsets[-1] == len(lengths)
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        assert begin < end  # no empty pack
        assert lengths[members[begin:end]].sum() <= BUDGET


def test_packing_wastes_little_on_mixed_lengths():
    lengths = np.random.default_rng(0).integers(10, 150, 2000)
    _, offsets = pack(lengths, 1024)
    assert lengths.sum() / ((len(offsets) - 1) * 1024) > 0.98


def test_packing_takes_samples_in_order():
    members, offsets = pack(np.array([30, 30, 30, 30]), BUDGET)
    assert members.tolist() == [0, 1, 2, 3] and offsets.tolist() == [0, 2, 4]


def test_a_pack_waits_for_a_fitting_sample():
    members, offsets = pack(np.array([40, 60, 24]), BUDGET)
    assert members.tolist() == [0, 2, 1] and offsets.tolist() == [0, 2, 3]


def test_interleave_spreads_groups_evenly():
    group, number = interleave([6, 0, 3])
    assert group.tolist() == [0, 2, 0, 0, 2, 0, 0, 2, 0]
    assert number[group == 0].tolist() == list(range(6))
    assert number[group == 2].tolist() == list(range(3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_interleave_keeps_every_prefix_near_its_share(counts):
    group, _ = interleave(counts)
    assert np.bincount(group, minlength=len(counts)).tolist() == counts
    for one, count in enumerate(counts):
        share = np.arange(1, len(group) + 1) * count / max(len(group), 1)
        assert np.abs(np.cumsum(group == one) - share).max(initial=0) <= len(counts)
