"""Likelihood of held-out data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mars_megatron.config.schema import RunConfig
    from mars_megatron.evaluation.suite import Context, Result


@dataclass(frozen=True)
class Likelihood:
    """Nats per token of held-out samples: of text and of image tokens, over all tasks and for each.

    Captions are never dropped here. Intervals are over samples.

    Args:
        index: Prefix of an index made by tools/index_data.py, all of which is used; empty takes the validation split
            of the data that the run is trained on.
        max_micro_batches: Most micro-batches, of all tasks in turn; 0 for all.
        micro_batch_tokens: Most tokens of one; 0 takes those of the run.
    """

    name: ClassVar[str] = "likelihood"
    index: str = field(default="", metadata={"or_data_of_run": True})
    max_micro_batches: int = 0
    micro_batch_tokens: int = 0

    def check(self) -> None:
        """Look at the options; the index is opened with the model, which it must fit.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        for option in ("max_micro_batches", "micro_batch_tokens"):
            if getattr(self, option) < 0:
                raise ValueError(f"{option} is {getattr(self, option)}; accepted: 0 or more")
        if self.index:
            from mars_megatron.data.store import Store

            Store(self.index)

    def run(self, context: Context) -> Result:
        """Read and sum."""
        from dataclasses import asdict

        from mars_megatron.data.micro_batches import open_micro_batches
        from mars_megatron.evaluation.likelihood import SampleLoss, estimates, sample_losses
        from mars_megatron.evaluation.suite import Result
        from mars_megatron.sampling.decoding import inference, row_multiple

        model, config, _, vocabulary = context.sampler.loaded
        batches = open_micro_batches(
            self._with_data(config), vocabulary, split="validation", row_multiple=row_multiple(model)
        )
        available = batches.rounds.round(0).num_packs
        count = min(self.max_micro_batches or available, available)

        def score(numbers: list[int]) -> list[list[dict[str, float]]]:
            return [[asdict(loss) for loss in sample_losses(model, batches[number])] for number in numbers]

        with inference(model):
            found = context.compute("micro-batches", count, score, at_once=4)
        losses = [SampleLoss(**values) for of_batch in found for values in of_batch]
        return Result(estimates(losses), {"num_micro_batches": count, "of_micro_batches": available})

    def _with_data(self, config: RunConfig) -> RunConfig:
        """The settings with the data in question, whose packing is planned in memory."""
        from dataclasses import replace

        data = replace(config.data, cache_dir="")
        if self.index:
            data = replace(data, path=self.index, blend=(), validation_path=self.index)
        if self.micro_batch_tokens:
            data = replace(data, micro_batch_tokens=self.micro_batch_tokens)
        if not data.path and not data.blend:
            raise ValueError("this checkpoint names no data (data.path is empty); give likelihood an index")
        return replace(config, data=data, checkpoint=replace(config.checkpoint, dir=""))
