"""The parser of RunConfig: every setting an option, its help from the docstrings, its type checked."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mars_megatron.config.problems import Problems
from mars_megatron.config.schema import RunConfig
from mars_megatron.config.yaml_io import to_dict


def build_parser(defaults: RunConfig, **options: Any) -> ArgumentParser:
    """A parser with one option for each setting. Its parse methods raise ArgumentError.

    Args:
        defaults: What settings are when not given.
        options: Passed to jsonargparse's ArgumentParser.
    """
    parser = ArgumentParser(exit_on_error=False, default_env=False, allow_abbrev=False, **options)
    parser.add_class_arguments(RunConfig)
    parser.set_defaults(_dotted(to_dict(defaults)))
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
    problems = _unknown(settings, to_dict(defaults))
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


def _unknown(settings: dict[Any, Any], known: dict[str, Any], prefix: str = "") -> list[str]:
    """What is wrong with the names and the nesting of `settings`."""
    found = []
    for name, value in settings.items():
        setting = f"{prefix}{name}"
        if name not in known:
            found.append(f"unknown setting {setting}; accepted here: {', '.join(known)}")
        elif isinstance(known[name], dict):
            if isinstance(value, dict):
                found += _unknown(value, known[name], f"{setting}.")
            else:
                found.append(f"{setting} is {value!r}; accepted: a mapping of {', '.join(known[name])}")
    return found


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
