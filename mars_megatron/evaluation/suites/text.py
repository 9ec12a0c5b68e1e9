"""Text preservation: whether a model still is the language model that it was made from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mars_megatron.evaluation.intervals import Estimate
    from mars_megatron.evaluation.suite import Context, Result
    from mars_megatron.evaluation.text_preservation import Comparison


@dataclass(frozen=True)
class TextPreservation:
    """How far a model has moved from the language model that it was made from, on text alone.

    The largest difference of a logit, the frozen tensors that are not bitwise those of the base, and with texts the
    perplexity of both, the nats per token that the model is worse, and the divergence KL(base || model) per token.

    Args:
        base: Checkpoint of the language model, or the folder of its run.
        texts: Texts to compare on: a file with one on each line, or JSONL with "prompt" and perhaps "answer". Without,
            all ids of the text tokenizer in rows of 32 are compared, and there is no perplexity.
        max_texts: Most texts, spread evenly over the file; 0 for all.
    """

    name: ClassVar[str] = "text"
    base: str
    texts: str = ""
    max_texts: int = 256

    def check(self) -> None:
        """Look at the options and the files that they name.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        from mars_megatron.checkpoint import resolve

        if self.max_texts < 0:
            raise ValueError(f"max_texts is {self.max_texts}; accepted: 0 or more")
        resolve(self.base)
        if self.texts:
            self._read()

    def run(self, context: Context) -> Result:
        """Load the base and compare."""
        from dataclasses import asdict

        from mars_megatron.checkpoint import resolve
        from mars_megatron.checkpoint.compatible import check_same_model
        from mars_megatron.evaluation.intervals import Estimate
        from mars_megatron.evaluation.suite import Result
        from mars_megatron.evaluation.text_preservation import Comparison, changed_frozen_tensors, compare_text
        from mars_megatron.evaluation.texts import spread
        from mars_megatron.sampling import load_for_inference

        model, config, groups, vocabulary = context.sampler.loaded
        check_same_model(resolve(self.base), config, image=False, visual=False)
        base = load_for_inference(self.base, groups=groups, device=config.training.device).model
        samples = spread(self._samples(context), self.max_texts)

        def compare(numbers: list[int]) -> list[dict[str, float]]:
            return [asdict(one) for one in compare_text(model, base, [samples[n] for n in numbers], vocabulary)]

        compared = [Comparison(**values) for values in context.compute("texts", len(samples), compare, at_once=16)]
        num_tokens = sum(len(sample) for sample in samples)
        # max() would lose a NaN
        differences = [sample.max_abs_difference for sample in compared]
        largest = math.nan if any(map(math.isnan, differences)) else max(differences)
        changed = changed_frozen_tensors(model, base)
        scores = {
            "logits_max_abs_diff": Estimate(largest, count=num_tokens),
            "frozen_tensors_changed": Estimate(float(len(changed)), count=sum(1 for _ in model.parameters())),
        }
        if self.texts:
            scores |= _likelihoods(compared)
        return Result(scores, {"frozen_tensors_changed": changed, "num_texts": len(samples), "num_tokens": num_tokens})

    def _samples(self, context: Context) -> list[list[int]]:
        tokenizer = context.sampler.text_tokenizer
        if not self.texts:
            ids = list(range(context.sampler.num_text_ids))
            return [ids[start : start + 32] for start in range(0, len(ids), 32)]
        samples = [tokenizer.encode(text) for text in self._read()]
        # The first token is given, not predicted.
        found = [sample for sample in samples if len(sample) > 1]
        if not found:
            raise ValueError(f"texts {self.texts} has no text of two tokens or more")
        return found

    def _read(self) -> list[str]:
        from mars_megatron.evaluation.texts import read_sentences

        return read_sentences(self.texts)


def _likelihoods(compared: list[Comparison]) -> dict[str, Estimate]:
    """Over the texts, weighted by their predicted tokens."""
    from mars_megatron.evaluation.intervals import Estimate, mean

    counts = [sample.num_predicted for sample in compared]
    ours = mean([sample.nats / sample.num_predicted for sample in compared], counts)
    theirs = mean([sample.base_nats / sample.num_predicted for sample in compared], counts)
    # of the same texts: the interval of the difference is far narrower than those of the two
    worse = mean([(sample.nats - sample.base_nats) / sample.num_predicted for sample in compared], counts)
    divergence = mean([sample.divergence / sample.num_predicted for sample in compared], counts)

    def exponential(of: Estimate) -> Estimate:
        assert of.low is not None and of.high is not None
        return Estimate(math.exp(of.value), math.exp(of.low), math.exp(of.high), of.count)

    return {
        "perplexity": exponential(ours),
        "base_perplexity": exponential(theirs),
        "nats_per_token_above_base": worse,
        "divergence_from_base": divergence,
    }
