"""Options from the fields and the docstring of a dataclass: in files, and on the command line of a tool."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from mars_megatron.compat.standard_library import actions

Options = TypeVar("Options")
METAVARS = {int: "N", float: "X"}


def description_of(kind: type) -> str:
    """The docstring of a class up to its options."""
    return (inspect.getdoc(kind) or "").partition("\n\nArgs:")[0]


def build(kind: type[Options], values: Mapping[str, Any], source: str) -> Options:
    """An object from options by name.

    Args:
        kind: A dataclass whose fields are str, int, float, bool, a Literal of strings, or tuple[str, ...].
        values: As read from YAML or JSON, or texts.
        source: Where they come from, for errors.

    Raises:
        ValueError: An unknown option, one that is missing, or a value of another type.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"{source}: unknown option {name}; accepted: {', '.join(names)}")
        if value is None:
            raise ValueError(f"{source}: {name} is null; leave it out for its default")
    try:
        found = _parser(kind).parse_object(dict(values))
        return kind(**{name: found[name] for name in names})
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from error


def add_arguments(parser: argparse.ArgumentParser, kind: type, title: str) -> None:
    """Give a parser the options of a dataclass, `--like-this`; `values_of` reads them."""
    types, group = get_type_hints(kind), parser.add_argument_group(title)
    told = {action.dest: " ".join(str(action.help).split()) for action in actions(_parser(kind))}
    for field in dataclasses.fields(kind):
        declared, is_required = types[field.name], field.default is dataclasses.MISSING
        note = "required" if is_required else f"default: {_shown(field.default)}"
        keywords: dict[str, Any] = {"help": f"{told[field.name]} ({note})".replace("%", "%%"), "required": is_required}
        if declared is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif get_origin(declared) is Literal:
            keywords["choices"] = get_args(declared)
        else:
            keywords["metavar"] = METAVARS.get(declared, "TEXT")
            if get_origin(declared) is tuple:
                keywords["nargs"] = "+"
        group.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, default=None, **keywords)


def values_of(kind: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a dataclass that a command line gives, for `build`."""
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(kind)}
    return {name: value for name, value in given.items() if value is not None}


def _parser(kind: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, default_env=False, allow_abbrev=False)
    parser.add_class_arguments(kind)
    return parser


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in ("", ()) else str(default)
