"""Two ways to the kind of a document say the same."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mars_megatron.index.modes import KINDS, NUM_MODES, document_kind, document_kinds


@given(documents=st.lists(st.lists(st.integers(0, NUM_MODES - 1), min_size=1, max_size=5), min_size=1, max_size=20))
def test_the_kind_of_one_document_is_that_among_many(documents):
    modes = np.array(sum(documents, []), dtype=np.int8)
    boundaries = np.cumsum([0, *map(len, documents)])
    kinds = document_kinds(modes, boundaries)
    assert kinds.dtype == np.int8
    assert kinds.tolist() == [document_kind(np.array(document, dtype=np.int8)) for document in documents]


def test_kinds_by_their_modes():
    for modes, kind in (([0], "text"), ([0, 0, 1], "image"), ([0, 2, 1], "pair"), ([3, 4], "interleaved")):
        assert KINDS[document_kind(np.array(modes, dtype=np.int8))] == kind
