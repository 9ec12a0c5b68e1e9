"""What a refused conversion must leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SETTINGS = ("--vocabulary.codebook_size=13", "--image.resolution=16", "--image.downsample=4")


@contextmanager
def refused(
    target: Path, *messages: str | Path, error: type[Exception] = ValueError
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block fails with an error that says all of the messages, and neither `target` nor a part of it is there."""
    before = set(target.parent.iterdir()) if target.parent.is_dir() else set()
    with pytest.raises(error) as caught:
        yield caught
    for message in messages:
        assert str(message) in str(caught.value)
    assert not (target.exists() and target not in before)
    left = set(target.parent.iterdir()) - before if target.parent.is_dir() else set()
    assert not left, "nothing half-written stays"
