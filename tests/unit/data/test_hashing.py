import numpy as np

from mars_megatron.data import hashing


def test_uniform_is_uniform_and_independent_between_purposes():
    documents = np.arange(20000)
    task = hashing.uniform(hashing.TASK, 1, 0, documents)
    dropout = hashing.uniform(hashing.DROPOUT, 1, 0, documents)
    assert 0 <= task.min() and task.max() < 1
    counts = np.histogram(task, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(task, dropout)[0, 1]) < 0.03
    assert abs(np.corrcoef(task[:-1], task[1:])[0, 1]) < 0.03


def test_draw_depends_on_every_argument_and_not_on_the_other_documents():
    one = hashing.draw(hashing.TASK, 1, 2, np.array([5]))
    assert hashing.draw(hashing.TASK, 1, 2, np.array([9, 5]))[1] == one[0]
    for other in (
        (hashing.DROPOUT, 1, 2, 5),
        (hashing.TASK, 2, 2, 5),
        (hashing.TASK, 1, 3, 5),
        (hashing.TASK, 2, 1, 5),
    ):
        assert hashing.draw(*other[:3], np.array([other[3]]))[0] != one[0]


def test_draw_is_pinned():
    """A change here would silently change the data order of every resumed run."""
    assert hashing.draw(hashing.ORDER, 1234, 0, np.arange(2)).tolist() == PINNED


def test_permutation_has_every_document_and_changes_with_the_epoch():
    documents = np.arange(100, 200)
    first, second = hashing.permutation(1, 0, documents), hashing.permutation(1, 1, documents)
    assert sorted(first) == sorted(second) == documents.tolist()
    assert first.tolist() != second.tolist() != documents.tolist()


PINNED = [4350751514061965732, 1996727425169314341]
