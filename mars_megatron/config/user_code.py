"""Functions and classes that a user names: recipes, suites, scorers, feature extractors."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FORMS = "package.module.name, package.module:name or folder/file.py:name"
_DOTTED = re.compile(r"(?P<module>\w+(\.\w+)*)[.:](?P<attribute>\w+)")
_IN_FILE = re.compile(r"(?P<module>.+\.py):(?P<attribute>\w+)")


def is_attribute(name: str) -> bool:
    """Whether it has one of the FORMS."""
    return _split(name) is not None


def load_attribute(setting: str, name: str, accepted: str = FORMS) -> Any:
    """The function or class that a name of one of the FORMS stands for.

    Modules are looked for in the current directory first, as by `python -m`.

    Args:
        setting: For messages.
        name: The name. A module must be importable; a file need not be.
        accepted: What the setting takes, where that is more than FORMS; for messages.

    Raises:
        ValueError: It has none of the FORMS, or there is no such module, file or attribute.
    """
    parts = _split(name)
    if parts is None:
        raise ValueError(f"{setting} is {name!r}; accepted: {accepted}")
    where, attribute = parts
    module = _load_file(setting, Path(where)) if where.endswith(".py") else _load_module(setting, name, where, accepted)
    found = getattr(module, attribute, None)
    if found is None and not where.endswith(".py") and _spec(name):
        found = importlib.import_module(name)
    if found is None:
        raise ValueError(f"{setting} is {name!r}, but {where} has no {attribute}; it has {_public(module)}")
    if isinstance(found, ModuleType):
        raise ValueError(f"{setting} is {name!r}, a module; name what is meant of {_public(found)}")
    return found


def source_file(name: str) -> Path | None:
    """The file behind a name that `load_attribute` has loaded; None for what has no source, or was not loaded."""
    where, _ = _split(name) or ("", "")
    if where.endswith(".py"):
        return Path(where)
    file = getattr(sys.modules.get(where), "__file__", None)
    return Path(file) if file else None


def _split(name: str) -> tuple[str, str] | None:
    found = _IN_FILE.fullmatch(name) or _DOTTED.fullmatch(name)
    return (found["module"], found["attribute"]) if found else None


def _public(module: ModuleType) -> str:
    """The functions and classes that a module defines."""
    names = [
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return ", ".join(names) or "no functions or classes"


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _load_module(setting: str, name: str, module: str, accepted: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # the module is there, something that it imports is not: that message is the better one
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{setting} is {name!r}, but there is no module {error.name} in {here} or on PYTHONPATH; start where it "
            f"is, or set PYTHONPATH; accepted: {accepted}"
        ) from error


def _load_file(setting: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{setting} names the file {path}, which does not exist")
    # Dataclasses look for their module among those that are loaded. The name is that of no other file, nor of this one
    # with other contents.
    identity = hashlib.sha256(str(path.resolve()).encode() + b"\0" + path.read_bytes()).hexdigest()
    name = f"{path.stem}_{identity[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
