"""Names of other packages that are replaced, each with its reason."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One replaced name: `owner` is a dotted module or class, `build` makes the new value from the old."""

    owner: str
    name: str
    build: Callable[[Any], Any]
    reason: str


def apply(patches: Iterable[Patch]) -> None:
    """Replace every name, once.

    Raises:
        AttributeError: A name is not there: another release of the package took it away.
    """
    for patch in patches:
        owner = resolve(patch.owner)
        setattr(owner, patch.name, patch.build(getattr(owner, patch.name)))


def resolve(dotted: str) -> Any:
    """The module or class of that name.

    Raises:
        ModuleNotFoundError, AttributeError: There is none.
    """
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if not dotted.startswith(str(error.name)):
            raise
        module, _, name = dotted.rpartition(".")
        return getattr(resolve(module), name)
