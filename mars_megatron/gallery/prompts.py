"""Files of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars_megatron.files.plain_text import parse_json, read_lines


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Args:
        text: What is asked for.
        label: What a classifier shall see in the image; empty if unknown.
        group: What results are reported by, such as a language; empty if none.
    """

    text: str
    label: str = ""
    group: str = ""


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a file with one prompt per line: {"prompt": ..., "label": ..., "group": ...} in a .jsonl file, plain
    text in any other.

    Raises:
        ValueError: The file is missing or has no prompt, or a line is not of that form.
    """
    lines = prompt_lines(path)
    if Path(path).suffix != ".jsonl":
        return [Prompt(line) for _, line in lines]
    return [parse_prompt(line, where)[0] for where, line in lines]


def prompt_lines(path: str | Path) -> list[tuple[str, str]]:
    """The lines of a file that are not empty, each with its place, "FILE line NUMBER".

    Raises:
        ValueError: The file is missing, is not UTF-8, or has no such line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"prompts {path} is not a file; give one with a prompt on each line")
    lines = [(where, line.strip()) for where, line in read_lines(path, "prompts")]
    if not lines:
        raise ValueError(f"prompts {path} is empty; give one prompt on each line")
    return lines


def parse_prompt(line: str, where: str, others: Sequence[str] = ()) -> tuple[Prompt, dict[str, Any]]:
    """The prompt of a JSON line, and those of the `others` that stand beside it.

    Raises:
        ValueError: The line is not of that form; it is named by `where`.
    """
    values = parse_json(line, where)
    wanted = '{"prompt": "...", "label": "...", "group": "..."} with strings, label and group optional'
    if others:
        wanted += f"; beside them {', '.join(others)}"
    if not isinstance(values, dict) or not values.get("prompt"):
        raise ValueError(f"{where} has no prompt; accepted: {wanted}")
    further = {name: values.pop(name) for name in others if name in values}
    fields = {"prompt": "text", "label": "label", "group": "group"}
    if not values.keys() <= fields.keys() or not all(isinstance(value, str) for value in values.values()):
        raise ValueError(f"{where} is {line}; accepted: {wanted}")
    return Prompt(**{fields[name]: value for name, value in values.items()}), further
