"""Shares by key."""

from __future__ import annotations

from collections.abc import Sequence


def shares(right: Sequence[bool], keys: Sequence[str]) -> dict[str, float]:
    """For each key, in order, the share of its values that are true."""
    by_key: dict[str, list[bool]] = {}
    for key, value in zip(keys, right, strict=True):
        by_key.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in sorted(by_key.items())}
