"""Whether a model still is the language model that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mars_megatron import platform
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import inference, pack_samples, row_multiple
from mars_megatron.sequence.vocabulary import Vocabulary


def text_logits(model: MARSModel, samples: Sequence[Sequence[int]], vocabulary: Vocabulary) -> torch.Tensor:
    """Logits of the text ids after every token of text-only samples: fp32 [tokens, text_size]."""
    assert all(token < vocabulary.text_size for sample in samples for token in sample)
    batch = pack_samples(samples, vocabulary, row_multiple(model), every_token=True)
    with inference(model):
        return model(batch.to(platform.device()), return_logits=True)[:, : vocabulary.text_size]


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


def compare_text(
    model: MARSModel,
    base: MARSModel,
    samples: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    batch_size: int = 16,
) -> list[Comparison]:
    """Compare two models of the same layout on the same texts.

    Args:
        model: The trained model.
        base: The language model that it was made from.
        samples: Text ids of each text; none empty.
        vocabulary: Layout of the joined ids.
        batch_size: Texts in one forward pass.
    """
    assert samples
    found = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        lengths = [len(sample) for sample in part]
        ours, theirs = text_logits(model, part, vocabulary), text_logits(base, part, vocabulary)
        by_sample = zip(ours.split(lengths), theirs.split(lengths), part, strict=True)
        found += [_compare(of_model, of_base, sample) for of_model, of_base, sample in by_sample]
    return found


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
    theirs = dict(base.named_parameters())
    changed = [
        name
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
        and not (name not in theirs and ".visual." in name)
        and not _same_bits(parameter, theirs[name])
    ]
    of_ranks: list[list[str]] = [changed] * model.tp_group.size()
    torch.distributed.all_gather_object(of_ranks, changed, group=model.tp_group)
    return sorted(set().union(*of_ranks))


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(first.detach().contiguous().view(torch.uint8), second.detach().contiguous().view(torch.uint8))
