"""What validation finds wrong with an index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_NUM_EXAMPLES = 5


@dataclass
class Validation:
    """What was found.

    Args:
        prefix: The index.
        summary: One line about what was read.
        problems: One line each; empty if all is well. Where many documents have the same problem, they share a line
            with their number and some of them.
    """

    prefix: str
    summary: str = ""
    problems: list[str] = field(default_factory=list)
    _many: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def many(self, problem: str, what: str, bad: np.ndarray, first: int) -> None:
        """Note that of the things `what`, numbered from `first`, those where `bad` [n] is true have a problem."""
        if not bad.any():
            return
        count, examples = self._many.setdefault(problem, (0, []))
        numbers = np.flatnonzero(bad)[: _NUM_EXAMPLES - len(examples)] + first
        self._many[problem] = (count + int(bad.sum()), examples + [f"{what} {number}" for number in numbers])

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Note what a step raises about files, and go on with the next step."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.problems.append(str(error))

    def finish(self) -> None:
        """Turn what was counted into problems."""
        for problem, (count, examples) in self._many.items():
            more = ", ..." if count > len(examples) else ""
            self.problems.append(f"{problem}: {count} times ({', '.join(examples)}{more})")
        self._many.clear()


def checksum_problem(path: Path, found: str, said: str | None) -> str:
    if said is None:
        return f"{path} exists, the manifest has no checksum of it"
    return f"{path} has sha256 {found}, the manifest says {said}"
