"""Completion accuracy of a language model on sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Judged
from mars_megatron.evaluation.labels import whole_word
from mars_megatron.evaluation.suite import Result
from mars_megatron.files.plain_text import parse_json, read_lines


@dataclass(frozen=True)
class Facts:
    """Share of sentences that the model completes correctly by greedy sampling: of all and by group.

    Args:
        facts: JSONL of sentences, such as {"prompt": "three plus four is", "answer": "seven", "group": "sums"}.
    """

    name: ClassVar[str] = "facts"
    needs_image_tokenizer: ClassVar[bool] = False
    facts: str

    def check(self) -> None:
        """See `Suite`."""
        read_facts(self.facts)

    def run(self, context: Context) -> Result:
        """Complete and judge."""
        facts = read_facts(self.facts)
        prompts = [fact.prompt.rstrip() for fact in facts]
        greedy = replace(context.sampler.loaded.config.generation, temperature=0.0)
        written = context.compute(
            "facts",
            len(facts),
            lambda numbers: context.sampler.complete([prompts[number] for number in numbers], greedy),
        )
        return Result(completion_accuracy(written, facts).scores("completion_accuracy"), {"num_facts": len(facts)})


@dataclass(frozen=True)
class Fact:
    """A sentence with one right ending.

    Args:
        prompt: Start of the sentence.
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
