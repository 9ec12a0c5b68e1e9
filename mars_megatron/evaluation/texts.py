"""Texts to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mars_megatron.files.plain_text import parse_json, read_lines
from mars_megatron.gallery.prompts import read_prompts
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Refused
from mars_megatron.indexing.sources.fields import read_captions
from mars_megatron.indexing.sources.listing import captions_file

Item = TypeVar("Item")


def read_texts(path: str | Path) -> list[str]:
    """The prompts of a file, or the first caption of each image of an image-text folder.

    Raises:
        ValueError: It is neither, a line is damaged, or there is no text in it.
    """
    if not Path(path).is_dir():
        return [prompt.text for prompt in read_prompts(path)]
    file = captions_file(path)
    texts = []
    for where, line in read_lines(file):
        fields = parse_json(line, where)
        if not isinstance(fields, dict):
            raise ValueError(f"{where} is {line}; accepted: a JSON object")
        try:
            captions = read_captions(fields, BuildOptions()) if "image" in fields else []
        except Refused as refused:
            raise ValueError(f"{where}: {refused.detail}") from refused
        if captions:
            texts.append(captions[0][0])
    if not texts:
        raise ValueError(f"{file} has no caption of an image")
    return texts


def read_sentences(path: str | Path) -> list[str]:
    """The texts of a file, one on each line: plain, or JSONL with "prompt" and perhaps "answer", in that order.

    Raises:
        ValueError: The file is missing or has no text, or a line is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"texts {path} is not a file; give one with a text on each line")
    texts = []
    for where, line in read_lines(path, "texts"):
        text = _sentence(line, where) if path.suffix == ".jsonl" else line
        if text.strip():
            texts.append(text)
    if not texts:
        raise ValueError(f"texts {path} is empty; give one text on each line")
    return texts


def _sentence(line: str, where: str) -> str:
    fields = parse_json(line, where)
    parts = [fields.get("prompt"), fields.get("answer", "")] if isinstance(fields, dict) else []
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError(f'{where} is {line}; accepted: {{"prompt": "...", "answer": "..."}}, answer optional')
    # Chinese has no spaces between words
    space = " " if parts[1] and parts[0][-1:].isascii() and not parts[0].endswith(" ") else ""
    return space.join(parts)


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` items, spread evenly over all; 0 for all of them."""
    if not limit or len(items) <= limit:
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]
