import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_megatron.data import hashing


def test_uniform_is_uniform_and_independent_between_purposes():
    documents = np.arange(20000)
    task = hashing.uniform(hashing.make_key(hashing.TASK, 1, 0, 0), documents)
    dropout = hashing.uniform(hashing.make_key(hashing.DROPOUT, 1, 0, 0), documents)
    assert 0 <= task.min() and task.max() < 1
    counts = np.histogram(task, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(task, dropout)[0, 1]) < 0.03
    assert abs(np.corrcoef(task[:-1], task[1:])[0, 1]) < 0.03


def test_draw_depends_on_every_argument_and_not_on_the_other_documents():
    key = hashing.make_key(hashing.TASK, 1, 2, 3)
    one = hashing.draw(key, np.array([5]))
    assert hashing.draw(key, np.array([9, 5]))[1] == one[0] != hashing.draw(key, np.array([6]))[0]
    for other in (
        (hashing.DROPOUT, 1, 2, 3),
        (hashing.TASK, 2, 2, 3),
        (hashing.TASK, 1, 3, 3),
        (hashing.TASK, 1, 2, 4),
    ):
        assert hashing.draw(hashing.make_key(*other), np.array([5]))[0] != one[0]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_a_permutation_has_every_number_once(size, key):
    placed = hashing.permute(np.array([key], dtype=np.uint64), size, np.arange(size))
    assert sorted(placed.tolist()) == list(range(size))
    some = np.arange(size)[::3]
    assert hashing.permute(np.array([key], dtype=np.uint64), size, some).tolist() == placed[some].tolist()


@pytest.mark.parametrize("size", [5, 36, 1000])
def test_permutations_are_spread_over_places_and_keys(size):
    """The first few places get every number about equally often, and neighbours do not stay neighbours."""
    keys = 1500
    first, second = (np.zeros(size) for _ in range(2))
    neighbours = 0
    for number in range(keys):
        key = hashing.make_key(hashing.ORDER, number, 0, 0)
        one, other = hashing.permute(key, size, np.array([0, 1]))
        first[one] += 1
        second[other] += 1
        neighbours += abs(int(one) - int(other)) == 1
    for counts in (first, second):
        expected = keys / size
        assert ((counts - expected) ** 2 / expected).sum() < size - 1 + 6 * np.sqrt(2 * (size - 1))  # chi square
    expected = 2 / size
    assert abs(neighbours / keys - expected) < 5 * np.sqrt(expected / keys)


def test_the_split_depends_on_the_number_of_documents_alone():
    slots = hashing.split_slots(100, np.arange(100))
    assert sorted(slots.tolist()) == list(range(100)) and slots[:10].tolist() != list(range(10))
