"""The uneven collectives that gloo cannot do itself, as the CPU platform does them."""

from __future__ import annotations

import pytest

from tests.support.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed


def test_uneven_shares_arrive_whole() -> None:
    """Hundreds of rounds with random shares, empty ones too: gloo's own reduce-scatter corrupts memory in these."""
    assert run_ranks(3, "uneven_collectives", {"rounds": 300}) == {"all_gather": 300, "reduce_scatter": 300}
