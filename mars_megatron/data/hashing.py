"""Seeded hashes and permutations: a document's fate is a pure function of (seed, epoch, corpus, document), so no worker
or rank can change it. The specification of csrc/hashing.h."""

from __future__ import annotations

import numpy as np

# What a draw decides; each purpose is an independent stream.
ORDER, TASK, CAPTION, DROPOUT, SPLIT = range(5)

GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
MASK = 0xFFFFFFFFFFFFFFFF
_ROUNDS = 6


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection on uint64 that scatters its input."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_key(purpose: int, seed: int, epoch: int, corpus: int) -> np.ndarray:
    """The key of a stream of draws, uint64 [1]."""
    key = np.zeros(1, dtype=np.uint64)
    for part in (purpose, seed, epoch, corpus):
        key = mix(key + np.uint64(GAMMA) + np.array([part & MASK], dtype=np.uint64))
    return key


def draw(key: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One uint64 per number (a document, say), [D] -> [D]."""
    return mix(mix(key + np.uint64(GAMMA) * (numbers.astype(np.uint64) + np.uint64(1))))


def uniform(key: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One float64 in [0, 1) per number, [D] -> [D]."""
    return (draw(key, numbers) >> np.uint64(11)) * 2.0**-53


def permute(key: np.ndarray, size: int, numbers: np.ndarray) -> np.ndarray:
    """Where each of `numbers` goes in a permutation of 0 .. size - 1, int64 [n] -> [n].

    A Feistel network over the next power of two, walked until it lands inside (Black and Rogaway, CT-RSA 2002): no
    memory, whatever the size.
    """
    bits = max(8, int(size - 1).bit_length())  # smaller networks are not uniform
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    keys = draw(key, np.arange(_ROUNDS))
    out = numbers.astype(np.uint64)
    outside = np.ones(len(out), dtype=bool)
    while outside.any():
        value = out[outside]
        high, low = value >> low_bits, value & low_mask
        for number in range(0, _ROUNDS, 2):
            high = high ^ (mix(keys[number] + low) & high_mask)
            low = low ^ (mix(keys[number + 1] + high) & low_mask)
        out[outside] = (high << low_bits) | low
        outside = out >= np.uint64(size)
    return out.astype(np.int64)


def split_slots(num_documents: int, slots: np.ndarray) -> np.ndarray:
    """The documents in some slots of the order from which a corpus is split, int64 [n] -> [n].

    The first slots are held out for validation. The order depends on the number of documents alone, never on a seed, so
    that runs over one corpus share their validation documents.
    """
    return permute(make_key(SPLIT, 0, 0, 0), num_documents, slots)
