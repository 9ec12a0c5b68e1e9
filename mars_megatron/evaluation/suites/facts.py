"""Completion accuracy: what a language model knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mars_megatron.evaluation.suite import Context, Result


@dataclass(frozen=True)
class Facts:
    """Share of sentences that the model completes rightly, written greedily: of all and by group.

    Args:
        facts: JSONL of sentences, such as {"prompt": "three plus four is", "answer": "seven", "group": "sums"}.
    """

    name: ClassVar[str] = "facts"
    facts: str

    def check(self) -> None:
        """Look at the file.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        from mars_megatron.evaluation.completion import read_facts

        read_facts(self.facts)

    def run(self, context: Context) -> Result:
        """Complete and judge."""
        from dataclasses import replace

        from mars_megatron.evaluation.completion import completion_accuracy, read_facts
        from mars_megatron.evaluation.suite import Result

        config = context.sampler.loaded.config
        facts = read_facts(self.facts)
        prompts = [fact.prompt.rstrip() for fact in facts]
        greedy = replace(config.generation, temperature=0.0)
        written = context.compute(
            "facts",
            len(facts),
            lambda numbers: context.sampler.complete([prompts[number] for number in numbers], greedy),
        )
        return Result(completion_accuracy(written, facts).scores("completion_accuracy"), {"num_facts": len(facts)})
