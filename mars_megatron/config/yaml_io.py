"""RunConfig to YAML text and back, exactly."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mars_megatron.config.parser import build
from mars_megatron.config.schema import RunConfig, to_dict
from mars_megatron.files.plain_text import read_text


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
