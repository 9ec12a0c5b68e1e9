"""Text preservation: whether a model still is the language model that it was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from mars_megatron import platform
from mars_megatron.checkpoint import resolve
from mars_megatron.checkpoint.compatible import check_same_model
from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Estimate, mean
from mars_megatron.evaluation.suite import Result, check_least
from mars_megatron.evaluation.texts import read_sentences, spread
from mars_megatron.model import MARSModel
from mars_megatron.model.experts import expert_of
from mars_megatron.sampling import load_for_inference
from mars_megatron.sampling.decoding import inference, pack_samples, row_multiple
from mars_megatron.sequence.vocabulary import Vocabulary


@dataclass(frozen=True)
class TextPreservation:
    """Comparison of a model with the language model that it was made from, on text alone.

    The largest difference of a logit and the number of frozen tensors that differ from the base. With texts also both
    perplexities, the difference in nats per token, and the divergence KL(base || model) per token.

    Args:
        base: Checkpoint of the language model, or the folder of its run.
        texts: Texts to compare on: a file with one on each line, or JSONL with "prompt" and perhaps "answer". Without,
            all ids of the text tokenizer in rows of 32 are compared, and there is no perplexity.
        max_texts: Largest number of texts, spread evenly over the file; 0 for all.
    """

    name: ClassVar[str] = "text"
    needs_image_tokenizer: ClassVar[bool] = False
    base: str
    texts: str = ""
    max_texts: int = 256

    def check(self) -> None:
        """See `Suite`."""
        check_least(self, max_texts=0)
        resolve(self.base)
        if self.texts:
            read_sentences(self.texts)

    def run(self, context: Context) -> Result:
        """Load the base and compare."""
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
        if not self.texts:
            ids = list(range(context.sampler.num_text_ids))
            return [ids[start : start + 32] for start in range(0, len(ids), 32)]
        samples = [context.sampler.text_tokenizer.encode(text) for text in read_sentences(self.texts)]
        # The first token is given, not predicted.
        found = [sample for sample in samples if len(sample) > 1]
        if not found:
            raise ValueError(f"texts {self.texts} has no text of two tokens or more")
        return found


@dataclass(frozen=True)
class Comparison:
    """Two models on one text, of which the first token is given and the others are predicted.

    Attributes:
        max_abs_difference: Largest absolute difference of a text logit; NaN where one is.
        num_predicted: Tokens that are predicted.
        nats: What the model needs for them, in all: minus the logarithm of their probability among the text ids.
        base_nats: The same of the base.
        divergence: KL(base || model) of the distributions that predict them, in all.
    """

    max_abs_difference: float
    num_predicted: int
    nats: float
    base_nats: float
    divergence: float


def text_logits(model: MARSModel, samples: Sequence[Sequence[int]], vocabulary: Vocabulary) -> torch.Tensor:
    """Logits of the text ids after every token of text-only samples: fp32 [tokens, text_size]."""
    assert all(token < vocabulary.text_size for sample in samples for token in sample)
    batch = pack_samples(samples, vocabulary, row_multiple(model), every_token=True)
    with inference(model):
        return model(batch.to(platform.device()), return_logits=True)[:, : vocabulary.text_size]


def compare_text(
    model: MARSModel, base: MARSModel, samples: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> list[Comparison]:
    """Compare two models of the same layout on the same texts, in one forward pass of each.

    Args:
        model: The trained model.
        base: The language model that it was made from.
        samples: Text ids of each text; none empty.
        vocabulary: Layout of the joined ids.
    """
    lengths = [len(sample) for sample in samples]
    ours, theirs = text_logits(model, samples, vocabulary), text_logits(base, samples, vocabulary)
    by_sample = zip(ours.split(lengths), theirs.split(lengths), samples, strict=True)
    return [_compare(of_model, of_base, sample) for of_model, of_base, sample in by_sample]


def _compare(ours: torch.Tensor, theirs: torch.Tensor, ids: Sequence[int]) -> Comparison:
    """Of fp32 logits [tokens, text_size] of one text."""
    difference = float((ours - theirs).abs().max())
    ours, theirs = ours[:-1].double().log_softmax(-1), theirs[:-1].double().log_softmax(-1)
    following = torch.tensor(ids[1:], device=ours.device)[:, None]
    return Comparison(
        difference,
        len(ids) - 1,
        -float(ours.gather(1, following).sum()),
        -float(theirs.gather(1, following).sum()),
        float((theirs.exp() * (theirs - ours)).sum()),
    )


def changed_frozen_tensors(model: MARSModel, base: MARSModel) -> list[str]:
    """Names of the frozen parameters of `model` that are not bitwise those of `base`, on any tensor-parallel rank.

    Visual parameters that the base does not have (it may have other visual experts) are not compared. Every
    tensor-parallel rank must call it.
    """
    theirs, experts = dict(base.named_parameters()), expert_of(model)
    changed = [
        name
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
        and not (name not in theirs and experts[parameter] == "visual")
        and not _same_bits(parameter, theirs[name])
    ]
    of_ranks: list[list[str]] = [changed] * model.tp_group.size()
    torch.distributed.all_gather_object(of_ranks, changed, group=model.tp_group)
    return sorted(set().union(*of_ranks))


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(first.detach().contiguous().view(torch.uint8), second.detach().contiguous().view(torch.uint8))


def _likelihoods(compared: list[Comparison]) -> dict[str, Estimate]:
    """Over the texts, weighted by their predicted tokens."""
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
