"""Functions and classes that a user names."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any


def is_attribute(name: str) -> bool:
    """Whether it looks like `package.module:attribute` or `folder/file.py:attribute`."""
    module, _, attribute = name.rpartition(":")
    return bool(module) and attribute.isidentifier()


def load_attribute(setting: str, name: str) -> Any:
    """What `package.module:attribute` or `folder/file.py:attribute` names.

    Args:
        setting: For messages.
        name: The name. A module must be importable; a file need not be.

    Raises:
        ValueError: There is no such module, file or attribute.
    """
    where, _, attribute = name.rpartition(":")
    module = _load_file(setting, Path(where)) if where.endswith(".py") else _load_module(setting, where)
    if not hasattr(module, attribute):
        raise ValueError(f"{setting} is {name}, but {where} has no {attribute}")
    return getattr(module, attribute)


def source_file(name: str) -> Path | None:
    """The file behind a name that `load_attribute` has loaded; None for what has no source."""
    where = name.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where)
    file = importlib.import_module(where).__file__
    return Path(file) if file else None


def _load_module(setting: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # the module is there, something that it imports is not: that message is the better one
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{setting} names the module {name}, which cannot be imported; give one on PYTHONPATH, or file.py:name"
        ) from error


def _load_file(setting: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{setting} names the file {path}, which does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
