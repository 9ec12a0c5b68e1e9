"""What validation finds wrong with an index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import KINDS

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


def manifest_problems(manifest: Manifest) -> Iterator[str]:
    """Values of a manifest that are not of the type or range that they should be."""

    def counts(values: object, keys: tuple[str, ...] | None = None) -> bool:
        return isinstance(values, dict) and all(
            isinstance(key, str) and (keys is None or key in keys) and type(count) is int and count >= 0
            for key, count in values.items()
        )

    def sizes(*values: object) -> bool:
        return all(type(value) is int and value > 0 for value in values)

    if not counts(manifest.documents, KINDS):
        yield f"documents is {manifest.documents!r}; it must be counts of {', '.join(KINDS)}"
    if not counts(manifest.tokens, ("text", "visual")) or len(manifest.tokens) != 2:
        yield f"tokens is {manifest.tokens!r}; it must be counts of text and visual"
    if not counts(manifest.skipped):
        yield f"skipped is {manifest.skipped!r}; it must be counts by reason"
    if not counts(manifest.unknown, ("texts", "tokens")):
        yield f"unknown is {manifest.unknown!r}; it must be counts of texts and tokens"
    if not isinstance(manifest.sha256, dict) or not all(isinstance(value, str) for value in manifest.sha256.values()):
        yield f"sha256 is {manifest.sha256!r}; it must be checksums by ending"
    if not isinstance(manifest.settings, dict):
        yield f"settings is {manifest.settings!r}; it must be a table"
    for name in ("text_tokenizer", "image_tokenizer"):
        info = getattr(manifest, name)
        if info is not None and not (isinstance(info.path, str) and isinstance(info.fingerprint, str)):
            yield f"{name} has path {info.path!r} and fingerprint {info.fingerprint!r}; they must be strings"
    if not sizes(manifest.text_tokenizer.size):
        yield f"text_tokenizer.size is {manifest.text_tokenizer.size!r}; it must be a number of ids"
    image = manifest.image_tokenizer
    if image is not None:
        if not sizes(image.codebook_size):
            yield f"image_tokenizer.codebook_size is {image.codebook_size!r}; it must be a number of codes"
        for name, grid in (("grid", image.grid), ("low_grid", image.low_grid)):
            if not (grid is None and name == "low_grid") and not (
                isinstance(grid, tuple) and len(grid) == 2 and sizes(*grid)
            ):
                yield f"image_tokenizer.{name} is {grid!r}; it must be two numbers, rows and columns"
    for source in manifest.sources:
        strings, integers = (source.path, source.sha256), (source.num_bytes, source.samples)
        if (
            not all(isinstance(value, str) for value in strings)
            or not all(type(value) is int for value in integers)
            or not all(counts(value) for value in (source.skipped, source.files, source.members, source.unread))
        ):
            yield (
                f"source {source.path!r} has a path, sha256, num_bytes, samples, skipped, files, members or unread of "
                "another type"
            )
