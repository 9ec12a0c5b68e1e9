"""Scores with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

LEVEL = 0.95
_Z = 1.959963984540054  # quantile of the standard normal distribution at (1 + LEVEL) / 2
_RESAMPLES = 1000
_MANY = 10_000  # values from which a bootstrap tells nothing that the normal distribution does not


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % confidence interval.

    Attributes:
        value: The score.
        low: Lower end; None where no interval is known.
        high: Upper end.
        count: Independent observations that it rests on.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0


def proportion(right: Sequence[bool]) -> Estimate:
    """Share of true values with Wilson's score interval (Wilson 1927, JASA 22)."""
    assert right
    count, share = len(right), sum(right) / len(right)
    denominator = 1 + _Z**2 / count
    centre = (share + _Z**2 / (2 * count)) / denominator
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / denominator
    # exact at the ends, where rounding leaves 1e-17
    low = max(centre - half, 0.0) if share > 0 else 0.0
    high = min(centre + half, 1.0) if share < 1 else 1.0
    return Estimate(share, low, high, count)


def mean(values: Sequence[float], weights: Sequence[float] | None = None, seed: int = 0) -> Estimate:
    """(Weighted) mean with the percentile interval of a bootstrap over the values (Efron 1979).

    Of very many values the normal interval is taken, whose variance is that of the linearised ratio of the sums.
    """
    assert len(values) > 0
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    value = float((w * x).sum() / w.sum())
    if len(x) > _MANY:
        half = _Z * math.sqrt(float(np.square(w * (x - value)).sum())) / float(w.sum())
        return Estimate(value, value - half, value + half, len(x))
    # Resampling by counts: one multinomial draw per resample, never [resamples, values] of indices.
    counts = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), size=_RESAMPLES)
    means = (counts @ (w * x)) / (counts @ w)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(value, float(low), float(high), len(x))


def mean_of_groups(values: Sequence[float], size: int) -> Estimate:
    """Mean whose interval is over groups of `size` values in a row.

    Images of one prompt are no independent observations of a score over prompts.
    """
    assert len(values) % size == 0, (len(values), size)
    return mean([sum(values[start : start + size]) / size for start in range(0, len(values), size)])


def share_of_groups(values: Sequence[float], size: int) -> Estimate:
    """`mean_of_groups` of values in 0..1, with an interval also where all are 0 or all are 1.

    A bootstrap of equal values has no width. There, and for plain shares of one value each, Wilson's interval is taken,
    with one observation for each group.
    """
    if set(values) in ({0}, {1}) or (size == 1 and set(values) == {0, 1}):
        return proportion([value == 1 for value in values[::size]])
    return mean_of_groups(values, size)


@dataclass(frozen=True)
class Judged:
    """Things that are right or wrong.

    Args:
        right: Which are right; at least one thing.
        keys: What results are also reported by: for each kind of key, such as "group", the key of each thing. A kind
            whose keys are all empty is not reported.
    """

    right: Sequence[bool]
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def overall(self) -> float:
        """Share that is right."""
        return sum(self.right) / len(self.right)

    def scores(self, name: str) -> dict[str, Estimate]:
        """Share of all as `name`, and those of each key, in order, as `name/kind/key`."""
        found = {name: proportion(self.right)}
        for kind, keys in self.keys.items():
            by_key: dict[str, list[bool]] = {}
            for key, right in zip(keys, self.right, strict=True):
                by_key.setdefault(key, []).append(right)
            if any(by_key):
                found |= {f"{name}/{kind}/{key}": proportion(values) for key, values in sorted(by_key.items())}
        return found
