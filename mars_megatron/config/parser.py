"""Settings as text: the parser of RunConfig, with an option for each setting, and YAML in and out."""

from __future__ import annotations

import dataclasses
import re
from argparse import ArgumentError
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from mars_megatron.config.problems import Problems
from mars_megatron.config.schema import RunConfig, to_dict
from mars_megatron.files.plain_text import read_text


def build_parser(**options: Any) -> ArgumentParser:
    """A parser with one option for each setting, its help from the docstrings. Its parse methods raise ArgumentError.

    Args:
        options: Passed to jsonargparse's ArgumentParser.
    """
    parser = ArgumentParser(exit_on_error=False, default_env=False, allow_abbrev=False, **options)
    parser.add_class_arguments(RunConfig)
    return parser


@cache
def _settings_parser() -> ArgumentParser:
    """The parser of settings alone. It takes a tenth of a second to build, and is told the defaults in each call."""
    return build_parser()


def build(
    defaults: RunConfig, settings: dict[str, Any], source: str, parser: ArgumentParser | None = None
) -> RunConfig:
    """Nested settings over defaults.

    Args:
        defaults: What settings are when not given.
        settings: Nested mapping, as read from YAML.
        source: Where the settings come from, for errors.
        parser: One of `build_parser` that is there already.

    Raises:
        ValueError: An unknown setting, or a value of another type.
    """
    problems = _unknown(settings, defaults)
    if problems:
        raise ValueError("\n".join(f"{source}: {problem}" for problem in problems))
    parser = parser or _settings_parser()
    try:
        return instantiate(parser, parser.parse_object(settings, _namespace(defaults)))
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def override(defaults: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Command-line settings ("--model.num_layers", "8", ...) over defaults.

    Raises:
        ValueError: An unknown setting, or a value of another type.
    """
    parser = _settings_parser()
    try:
        return instantiate(parser, parser.parse_args(list(overrides), _namespace(defaults)))
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


def dotted(section: Any, prefix: str = "") -> dict[str, Any]:
    """Plain value of every setting below a section, by dotted name; a setting that is a mapping stays one."""
    flat: dict[str, Any] = {}
    for name, value in to_dict(section).items():
        inner = getattr(section, name)
        if dataclasses.is_dataclass(inner):
            flat |= dotted(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _namespace(config: RunConfig) -> Namespace:
    settings = Namespace()
    for name, value in dotted(config).items():
        settings[name] = value
    return settings


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


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML; `from_yaml` gives back an equal one."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def from_yaml(path: str | Path) -> RunConfig:
    """Read a YAML file; settings it leaves out have their schema defaults.

    Raises:
        ValueError: The file is missing or not YAML, names an unknown or repeated setting, or a value of another type.
    """
    return build(RunConfig(), read_yaml(path), source=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, before any check of its settings.

    Raises:
        ValueError: The file is missing, not YAML, not a mapping, or repeats a key.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"configuration file {path} does not exist; give the path of a YAML file")
    return parse_yaml(read_text(path, "configuration file"), f"configuration file {path}")


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping in YAML text; `source` is what messages call it.

    Raises:
        ValueError: It is not YAML, not a mapping, or repeats a key.
    """
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}; accepted: a mapping of settings")
    return content


class _Dumper(yaml.SafeDumper):
    """Safe dumping that quotes what is not printable: plain, Unicode's own line breaks would become spaces."""


def _represent_string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _represent_string)


class _StrictLoader(yaml.SafeLoader):
    """Safe loading that refuses repeated keys and reads 1e-4 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"setting {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# The dumper too, so that a string that looks like such a number is quoted.
for _class in (_StrictLoader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )
