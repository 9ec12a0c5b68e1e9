"""Confidence intervals: known values, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from mars_megatron.evaluation.intervals import Estimate, mean, mean_of_groups, proportion
from mars_megatron.evaluation.table import table


def test_known_intervals_of_shares() -> None:
    """Values of Newcombe 1998, table I, for Wilson's interval without correction."""
    for right, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = proportion([True] * right + [False] * (total - right))
        assert (found.value, found.count) == (right / total, total)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert proportion([False] * 7).low == 0.0 and proportion([True] * 7).high == 1.0


def test_intervals_of_means_hold_the_truth() -> None:
    """In about 95 % of repetitions; so few values that the bootstrap's are a little narrow."""
    rng = np.random.default_rng(0)
    estimates = [mean(rng.exponential(2.0, 50).tolist()) for _ in range(200)]
    held = [found.low <= 2.0 <= found.high for found in estimates]  # type: ignore[operator]
    assert 0.88 <= np.mean(held) <= 0.98


def test_means_are_weighted_and_grouped() -> None:
    found = mean([1.0, 3.0], weights=[3.0, 1.0])
    assert (found.value, found.low, found.high, found.count) == (1.5, 1.0, 3.0, 2)
    assert mean([2.0, 2.0]) == Estimate(2.0, 2.0, 2.0, 2)
    grouped = mean_of_groups([0.0, 0.0, 1.0, 1.0, 0.0, 1.0], 2)
    assert (grouped.value, grouped.count) == (0.5, 3)


def test_table() -> None:
    scores = {"a": Estimate(0.5, 0.25, 0.75, 4), "long/name": Estimate(1e-5), "none": Estimate(0.0, count=3)}
    assert table(scores).splitlines() == [
        "score          value      95% interval  n",
        "a             0.5000  0.2500 .. 0.7500  4",
        "long/name  1.000e-05",
        "none          0.0000                    3",
    ]
