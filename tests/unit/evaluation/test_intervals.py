"""Confidence intervals: known values, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from mars_megatron.evaluation import intervals
from mars_megatron.evaluation.intervals import Estimate, mean, mean_of_groups, proportion, share_of_groups
from mars_megatron.evaluation.results import table


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


def test_many_values_have_the_same_interval_as_few_resampled_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.exponential(2.0, 4000).tolist(), rng.integers(1, 50, 4000).tolist()
    resampled = mean(values, weights)
    monkeypatch.setattr(intervals, "_MANY", 3999)
    normal = mean(values, weights)
    assert normal.value == resampled.value and normal.count == 4000
    assert resampled.low is not None and resampled.high is not None and normal.low is not None
    width = resampled.high - resampled.low
    assert (normal.low, normal.high) == pytest.approx((resampled.low, resampled.high), abs=0.1 * width)
    assert normal != resampled


def test_shares_have_a_width_where_all_are_alike() -> None:
    """Three prompts of two images each are three observations, though all six are right."""
    assert share_of_groups([1.0] * 6, 2) == proportion([True] * 3)
    assert share_of_groups([0.0] * 6, 2) == proportion([False] * 3)
    assert share_of_groups([1.0, 0.0, 1.0], 1) == proportion([True, False, True])
    mixed = [0.0, 0.5, 1.0, 1.0]
    assert share_of_groups(mixed, 2) == mean_of_groups(mixed, 2)


def test_table() -> None:
    scores = {"a": Estimate(0.5, 0.25, 0.75, 4), "long/name": Estimate(1e-5), "none": Estimate(0.0, count=3)}
    assert table(scores).splitlines() == [
        "score          value      95% interval  n",
        "a             0.5000  0.2500 .. 0.7500  4",
        "long/name  1.000e-05",
        "none          0.0000                    3",
    ]
