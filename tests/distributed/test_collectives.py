"""Process groups on a CPU: the uneven collectives that gloo cannot do itself, and groups that are given up."""

from __future__ import annotations

import sys

import pytest

from tests.support.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed


def test_uneven_shares_arrive_whole() -> None:
    """Hundreds of rounds with random shares, empty ones too: gloo's own reduce-scatter corrupts memory in these."""
    assert run_ranks(3, "uneven_collectives", {"rounds": 300}) == {"all_gather": 300, "reduce_scatter": 300}


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_groups_of_other_layouts_leave_no_threads() -> None:
    """Each thread of a group that is left wakes a hundred times a second."""
    counts = run_ranks(2, "threads_of_groups", {"layouts": [{"tensor": 2}, {"tensor": 1}] * 4})
    assert max(counts[-2:]) <= max(counts[:2]) + 3, counts
