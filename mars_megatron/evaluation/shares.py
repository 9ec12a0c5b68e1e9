"""What share of some judged things is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mars_megatron.evaluation.intervals import Estimate, proportion


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
