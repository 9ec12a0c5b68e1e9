"""The options of a suite, from the fields and the docstring of its class: for the command line and for files."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Of the field.
        type: Declared one: str, int, float, bool, a Literal of strings, or tuple[str, ...].
        default: MISSING where it must be given.
        help: What the docstring says of it.
    """

    name: str
    type: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def accepted(self) -> str:
        """What values it may have."""
        if get_origin(self.type) is Literal:
            return ", ".join(get_args(self.type))
        if self.type == tuple[str, ...]:
            return "a list of strings"
        names = {str: "a string", int: "an integer", float: "a finite number", bool: "true or false"}
        return names[self.type]

    def check(self, value: Any) -> Any:
        """The value as the field has it.

        Raises:
            ValueError: It is of another type.
        """
        if get_origin(self.type) is Literal:
            fine = value in get_args(self.type)
        elif self.type == tuple[str, ...]:
            fine = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
            value = tuple(value) if fine else value
        elif self.type is float:
            fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            value = float(value) if fine else value
        else:
            fine = type(value) is self.type
        if not fine:
            raise ValueError(f"{self.name} is {value!r}; accepted: {self.accepted}")
        return value


def options_of(suite: type) -> list[Option]:
    """The options of a suite's class, in order."""
    described = {
        param.arg_name: param.description or "" for param in docstring_parser.parse(suite.__doc__ or "").params
    }
    types = get_type_hints(suite)
    return [
        Option(field.name, types[field.name], field.default, " ".join(described[field.name].split()))
        for field in dataclasses.fields(suite)
    ]


def description_of(suite: type) -> tuple[str, str]:
    """The first line of a suite's docstring, and what follows up to the options."""
    found = _docstring(suite)
    return found.short_description or "", found.long_description or ""


def build_suite(suite: type, values: Mapping[str, Any], source: str) -> Any:
    """A suite from values by name.

    Args:
        suite: The class.
        values: As read from YAML or JSON.
        source: Where they come from, for errors.

    Raises:
        ValueError: An unknown option, one that is missing, or a value of another type.
    """
    options = {option.name: option for option in options_of(suite)}
    for name in values:
        if name not in options:
            raise ValueError(f"{source}: unknown option {name}; accepted: {', '.join(options)}")
    missing = [name for name, option in options.items() if option.is_required and name not in values]
    if missing:
        raise ValueError(f"{source}: {missing[0]} is missing; it has no default")
    try:
        return suite(**{name: options[name].check(value) for name, value in values.items()})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser, suite: type) -> None:
    """Give a parser the options of a suite's class; `from_arguments` reads them."""
    group = parser.add_argument_group(f"options of {suite.name}")  # type: ignore[attr-defined]
    for option in options_of(suite):
        keywords: dict[str, Any] = {"dest": option.name, "default": None}
        note = "required" if option.is_required else f"default: {_shown(option.default)}"
        keywords["help"] = f"{option.help} ({note})".replace("%", "%%")
        if option.type is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif get_origin(option.type) is Literal:
            keywords["choices"] = get_args(option.type)
        elif option.type == tuple[str, ...]:
            keywords |= {"nargs": "+", "metavar": "TEXT"}
        else:
            metavar = {str: "TEXT", int: "N", float: "X"}[option.type]
            keywords |= {"type": partial(_convert, option.type), "metavar": metavar}
        group.add_argument(option.flag, required=option.is_required, **keywords)


def from_arguments(suite: type, arguments: argparse.Namespace) -> Any:
    """The suite that a command line asks for.

    Raises:
        ValueError: A value that its type does not have, such as an infinite number.
    """
    given = {option.name: getattr(arguments, option.name) for option in options_of(suite)}
    present = {name: value for name, value in given.items() if value is not None}
    return build_suite(suite, present, suite.name)  # type: ignore[attr-defined]


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in ("", ()) else str(default)


def _docstring(suite: type) -> docstring_parser.Docstring:
    return docstring_parser.parse(suite.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)


def _convert(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {'an integer' if kind is int else 'a number'}") from error
