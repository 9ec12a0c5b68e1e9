"""Whether a model completes sentences as it should: what a base language model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mars_megatron.evaluation.labels import whole_word
from mars_megatron.evaluation.shares import Judged
from mars_megatron.files.plain_text import parse_json, read_lines


@dataclass(frozen=True)
class Fact:
    """A sentence with one right ending.

    Args:
        prompt: Its beginning.
        answer: What must come next.
        group: What results are reported by; empty if none.
    """

    prompt: str
    answer: str
    group: str = ""


def read_facts(path: str | Path) -> list[Fact]:
    """Read a JSONL file of {"prompt": ..., "answer": ..., "group": ...}; group is optional.

    Raises:
        ValueError: The file is missing or empty, or a line is not of that form.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"facts {path} is not a file")
    facts = []
    for where, line in read_lines(path, "facts"):
        values = parse_json(line, where)
        try:
            fact = Fact(**values)
        except TypeError as error:
            raise ValueError(f"{where} is not a fact: {error}") from error
        if not all(isinstance(value, str) for value in vars(fact).values()) or not (fact.prompt and fact.answer):
            raise ValueError(f'{where} must have non-empty strings "prompt" and "answer"')
        facts.append(fact)
    if not facts:
        raise ValueError(f"facts {path} is empty")
    return facts


def completion_accuracy(completions: Sequence[str], facts: Sequence[Fact]) -> Judged:
    """Compare what was written after each prompt with its answer: it must begin with it, as a whole word."""
    assert len(completions) == len(facts) > 0, (len(completions), len(facts))
    right = [
        whole_word(fact.answer).match(written.strip()) is not None
        for written, fact in zip(completions, facts, strict=True)
    ]
    return Judged(right, {"group": [fact.group for fact in facts]})
