"""Make docs/configuration.md from the schema: `python docs/make_configuration.py [FILE]`."""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path

import docstring_parser

from mars_megatron.config.schema import RunConfig, to_dict

HEAD = """\
# Configuration

<!-- Made by docs/make_configuration.py from mars_megatron/config. Edit the docstrings there. -->

A run is one tree of settings. A setting is an option of `python -m mars_megatron.train` under its dotted name
(`--model.num_layers 8`), and a key of a YAML file (`model: {num_layers: 8}`). The defaults below are those of the
schema; a recipe changes them. `--print-config` prints the settings of a run.
"""


def described(kind: type) -> tuple[str, dict[str, str]]:
    """What the docstring of a dataclass says: of it, and of each field."""
    parsed = docstring_parser.parse(kind.__doc__ or "")
    summary = " ".join(filter(None, (parsed.short_description, parsed.long_description)))
    return one_line(summary), {entry.arg_name: one_line(entry.description or "") for entry in parsed.params}


def one_line(text: str) -> str:
    """Without line breaks, and without what a table would take for a column."""
    return " ".join(text.split()).replace("|", "\\|")


def type_name(kind: object) -> str:
    """How a reader writes the values of a type."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    arguments = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    if typing.get_origin(kind) is tuple:
        return f"list of {type_name(arguments[0])}"
    if typing.get_origin(kind) is dict:
        return "mapping"
    if arguments:
        return f"{type_name(arguments[0])}, or null"
    return getattr(kind, "__name__", str(kind))


def default_text(value: object) -> str:
    """A default as YAML writes it."""
    if value in ("", (), [], {}):
        return "empty"
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def section(kind: type, defaults: dict[str, typing.Any], prefix: str) -> list[str]:
    """The lines of a section of the tree, and of those below it."""
    summary, help_texts = described(kind)
    types = typing.get_type_hints(kind)
    lines = [f"## {prefix}", "", summary, "", "| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    below: list[str] = []
    for field in dataclasses.fields(kind):
        name = f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(types[field.name]):
            lines.append(f"| `{name}` | section | [below](#{name.replace('.', '')}) | {help_texts[field.name]} |")
            below += section(types[field.name], defaults[field.name], name)
        else:
            shown = default_text(defaults[field.name])
            lines.append(f"| `{name}` | {type_name(types[field.name])} | {shown} | {help_texts[field.name]} |")
    return [*lines, "", *below]


def entries_of_lists() -> list[str]:
    """Sections for the dataclasses that are the entries of a list."""
    hints = typing.get_type_hints(type(RunConfig().data))
    (entry, *_) = typing.get_args(hints["blend"])
    return section(entry, dataclasses.asdict(entry()), "data.blend[]")


def page() -> str:
    """The whole page."""
    defaults, lines = to_dict(RunConfig()), [HEAD]
    for field in dataclasses.fields(RunConfig):
        kind = typing.get_type_hints(RunConfig)[field.name]
        lines += section(kind, defaults[field.name], field.name)
    return "\n".join([*lines, *entries_of_lists()]).rstrip() + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("configuration.md")
    target.write_text(page(), encoding="utf-8")
