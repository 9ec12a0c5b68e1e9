"""Seeded hashes: a document's fate is a pure function of (seed, epoch, document), so no worker or rank
can change it."""

from __future__ import annotations

import numpy as np

# What a draw decides; each purpose is an independent stream.
ORDER, TASK, CAPTION, DROPOUT, SPLIT = range(5)

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, a bijection on uint64 that scatters nearby values."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(purpose: int, seed: int, epoch: int, documents: np.ndarray) -> np.ndarray:
    """One uint64 per document, [D] -> [D]."""
    key = np.zeros(1, dtype=np.uint64)
    for part in (purpose, seed, epoch):
        key = _mix(key + _GAMMA + np.array([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    return _mix(_mix(key + _GAMMA * (documents.astype(np.uint64) + np.uint64(1))))


def uniform(purpose: int, seed: int, epoch: int, documents: np.ndarray) -> np.ndarray:
    """One float64 in [0, 1) per document, [D] -> [D]."""
    return (draw(purpose, seed, epoch, documents) >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, epoch: int, documents: np.ndarray) -> np.ndarray:
    """The documents in the seeded order of one epoch, [D] -> [D]."""
    return documents[np.argsort(draw(ORDER, seed, epoch, documents), kind="stable")]
