"""What images and captions share: running a model token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from mars_megatron import platform
from mars_megatron.generation.batches import DecodeStep, pack_samples, sample_lengths
from mars_megatron.model import KVCache, MARSModel
from mars_megatron.tokenizers.vocabulary import Vocabulary


@contextmanager
def inference(model: MARSModel) -> Iterator[None]:
    """Evaluation mode without autograd inside; the mode from before afterwards.

    Raises:
        ValueError: The model is split over pipeline stages or expert-parallel ranks.
    """
    sizes = {
        "pipeline": model.config.pipeline_model_parallel_size,
        "expert": model.config.expert_model_parallel_size,
    }
    for name, size in sizes.items():
        if size > 1:
            raise ValueError(
                f"parallel.{name} is {size}; accepted: 1, sampling runs on tensor parallelism alone "
                f"(a checkpoint of any layout can be loaded with parallel.{name} 1)"
            )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def row_multiple(model: MARSModel) -> int:
    """What a plan must pad each modality to for this model."""
    return model.tp_group.size() if model.config.sequence_parallel else 1


def agree(ids: torch.Tensor, model: MARSModel) -> torch.Tensor:
    """The ids of the first tensor-parallel rank, on all of them."""
    if model.tp_group.size() > 1:
        ids = ids.contiguous()
        first = torch.distributed.get_process_group_ranks(model.tp_group)[0]
        torch.distributed.broadcast(ids, src=first, group=model.tp_group)
    return ids


class Decoder:
    """Decodes some samples together, with their keys and values kept.

    Args:
        model: The whole model (one pipeline stage).
        vocabulary: Layout of the joined ids.
        samples: Joined ids that each sample begins with; lengths may differ.
        modality: Modality of all tokens to come.
        max_new_tokens: How many of them each sample is given at most.
        per_step: Tokens that each sample is given in a step, and whose logits it returns: the K of next-K-token
            prediction, with which each sample's beginning ends in its K start slots.
    """

    def __init__(
        self,
        model: MARSModel,
        vocabulary: Vocabulary,
        samples: Sequence[Sequence[int]],
        modality: int,
        max_new_tokens: int,
        per_step: int = 1,
    ) -> None:
        self.model = model
        multiple, device = row_multiple(model), platform.device()
        self.per_step = per_step
        self._prompt = pack_samples(samples, vocabulary, multiple, num_last=per_step)
        self._step = DecodeStep.build(len(samples), modality, vocabulary, multiple, device, per_step)
        self._cache = KVCache(len(samples), max(len(sample) for sample in samples) + max_new_tokens)

    def start(self) -> torch.Tensor:
        """Read the beginnings; fp32 logits [samples * per_step, vocabulary.size] of the first new tokens."""
        logits = self.model(self._prompt.to(platform.device()), cache=self._cache, return_logits=True)
        self._cache.advance(sample_lengths(self._prompt.plan))
        return logits

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Read joined ids, int64 [samples * per_step], those of the first sample first.

        Returns:
            fp32 logits [samples * per_step, vocabulary.size] of as many next ones.
        """
        logits = self.model(self._step.batch(ids), cache=self._cache, return_logits=True)
        self._cache.advance(torch.full((len(ids) // self.per_step,), self.per_step))
        return logits
