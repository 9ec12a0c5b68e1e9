"""The parser of RunConfig: every setting an option, its help from the docstrings, its type checked."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mars_megatron.config.problems import Problems
from mars_megatron.config.schema import RunConfig, to_dict


def build_parser(defaults: RunConfig, **options: Any) -> ArgumentParser:
    """A parser with one option for each setting. Its parse methods raise ArgumentError.

    Args:
        defaults: What settings are when not given.
        options: Passed to jsonargparse's ArgumentParser.
    """
    parser = ArgumentParser(exit_on_error=False, default_env=False, allow_abbrev=False, **options)
    parser.add_class_arguments(RunConfig)
    parser.set_defaults(_dotted(defaults))
    return parser


def build(defaults: RunConfig, settings: dict[str, Any], source: str) -> RunConfig:
    """Nested settings over defaults.

    Args:
        defaults: What settings are when not given.
        settings: Nested mapping, as read from YAML.
        source: Where the settings come from, for errors.

    Raises:
        ValueError: An unknown setting, or a value of another type.
    """
    problems = _unknown(settings, defaults)
    if problems:
        raise ValueError("\n".join(f"{source}: {problem}" for problem in problems))
    parser = build_parser(defaults)
    try:
        return instantiate(parser, parser.parse_object(settings))
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def override(defaults: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Command-line settings ("--model.num_layers", "8", ...) over defaults.

    Raises:
        ValueError: An unknown setting, or a value of another type.
    """
    parser = build_parser(defaults)
    try:
        return instantiate(parser, parser.parse_args(list(overrides)))
    except ArgumentError as error:
        raise ValueError(str(error)) from error


def instantiate(parser: ArgumentParser, settings: Namespace) -> RunConfig:
    """The dataclass tree of parsed settings.

    Raises:
        ValueError: A null among the settings, which jsonargparse lets through.
    """
    tree = parser.instantiate(settings)
    config = RunConfig(**{name: tree[name] for name in RunConfig.__dataclass_fields__})
    problems = Problems(config)
    problems.types()
    problems.raise_if_any()
    return config


def _unknown(settings: dict[Any, Any], section: Any, prefix: str = "") -> list[str]:
    """What is wrong with the names and the nesting of `settings` for a section of the configuration."""
    found = []
    known = [field.name for field in dataclasses.fields(section)]
    for name, value in settings.items():
        setting = f"{prefix}{name}"
        if name not in known:
            found.append(f"unknown setting {setting}; accepted here: {', '.join(known)}")
        elif dataclasses.is_dataclass(inner := getattr(section, name)):
            if isinstance(value, dict):
                found += _unknown(value, inner, f"{setting}.")
            else:
                names = ", ".join(field.name for field in dataclasses.fields(inner))
                found.append(f"{setting} is {value!r}; accepted: a mapping of {names}")
    return found


def _dotted(section: Any, prefix: str = "") -> dict[str, Any]:
    """Plain value of every setting below a section, by dotted name; a setting that is a mapping stays one."""
    flat: dict[str, Any] = {}
    for name, value in to_dict(section).items():
        inner = getattr(section, name)
        if dataclasses.is_dataclass(inner):
            flat |= _dotted(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
