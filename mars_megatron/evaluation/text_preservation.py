"""Whether a model still is the language model that it was made from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron import platform
from mars_megatron.generation.batches import pack_samples
from mars_megatron.generation.decoding import inference, row_multiple
from mars_megatron.model import MARSModel
from mars_megatron.tokenizers.vocabulary import Vocabulary


def text_logits(model: MARSModel, samples: Sequence[Sequence[int]], vocabulary: Vocabulary) -> torch.Tensor:
    """Logits of the text ids after every token of text-only samples: fp32 [tokens, text_size]."""
    assert all(token < vocabulary.text_size for sample in samples for token in sample)
    batch = pack_samples(samples, vocabulary, row_multiple(model), every_token=True)
    with inference(model):
        return model(batch.to(platform.device()), return_logits=True)[:, : vocabulary.text_size]


def text_logits_max_abs_diff(
    model: MARSModel,
    base: MARSModel,
    samples: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    batch_size: int = 16,
) -> float:
    """Largest absolute difference of the text logits of two models of the same layout, on the same samples.

    Args:
        model: The trained model.
        base: The language model that it was made from.
        samples: Text ids of each sample; none empty.
        vocabulary: Layout of the joined ids.
        batch_size: Samples in one forward pass.
    """
    assert samples
    largest = 0.0
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        difference = text_logits(model, part, vocabulary) - text_logits(base, part, vocabulary)
        # a NaN must not be lost in a comparison
        largest = float(torch.tensor([largest, float(difference.abs().max())]).max())
    return largest


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
