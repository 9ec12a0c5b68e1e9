import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_megatron.data.packing import best_sum, pack

BUDGET = 64


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, BUDGET), max_size=120), st.integers(1, 8))
def test_packing_never_exceeds_the_budget_and_loses_nothing(lengths, lookahead):
    lengths = np.array(lengths, dtype=np.int64)
    members, offsets = pack(lengths, BUDGET, lookahead)
    assert sorted(members.tolist()) == list(range(len(lengths)))
    assert offsets[0] == 0 and offsets[-1] == len(lengths)
    oldest = 0
    for number, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        assert begin < end  # no empty pack
        assert lengths[members[begin:end]].sum() <= BUDGET
        # each pack begins with the sample that has waited longest
        assert members[begin] == min(set(range(len(lengths))) - set(members[:begin].tolist()))
        oldest = max(oldest, number)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=8), st.integers(0, 60))
def test_the_best_sum_is_the_best(lengths, limit):
    chosen = best_sum(lengths, limit)
    assert chosen == sorted(set(chosen))
    sums = {0}
    for length in lengths:
        sums |= {total + length for total in sums}
    assert sum(lengths[number] for number in chosen) == max(total for total in sums if total <= limit)


def test_packing_takes_samples_in_order():
    members, offsets = pack(np.array([30, 30, 30, 30]), BUDGET)
    assert members.tolist() == [0, 1, 2, 3] and offsets.tolist() == [0, 2, 4]


def test_a_pack_is_filled_by_a_sample_that_fits():
    members, offsets = pack(np.array([40, 60, 24]), BUDGET)
    assert members.tolist() == [0, 2, 1] and offsets.tolist() == [0, 2, 3]


def test_many_short_samples_beside_a_long_one_fill_their_packs():
    """The lookahead is shorter than a pack: it must not bound what a pack holds."""
    lengths = np.full(500, 1, dtype=np.int64)
    lengths[250] = BUDGET
    _, offsets = pack(lengths, BUDGET, 4)
    assert len(offsets) - 1 == 1 + -(-499 // BUDGET)
