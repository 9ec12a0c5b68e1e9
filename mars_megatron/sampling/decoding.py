"""What images and captions share: running a model token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import KVCache, MARSModel
from mars_megatron.sampling.batches import DecodeStep, pack_samples, sample_lengths
from mars_megatron.sampling.direct import DirectDecoding
from mars_megatron.sampling.draws import draw
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary


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
    if was_training:  # looks at every module
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train()


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


def chooser(config: GenerationConfig, temperature: float | None = None) -> Callable[..., torch.Tensor]:
    """`draw` with the settings of a configuration; `temperature` in place of its own."""
    return partial(
        draw,
        temperature=config.temperature if temperature is None else temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
    )


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
        self._modality = modality
        self._cache = KVCache(len(samples), max(len(sample) for sample in samples) + max_new_tokens)
        self._direct: DirectDecoding | None = None
        if DirectDecoding.serves(model):
            self._direct = DirectDecoding(model, self._cache.max_length)
        else:
            self._step = DecodeStep.build(len(samples), modality, vocabulary, multiple, device, per_step)

    def start(self) -> torch.Tensor:
        """Read the beginnings; fp32 logits [samples * per_step, ids of the modality] of the first new tokens."""
        logits = self._read(self._prompt.to(platform.device()))
        self._cache.advance(sample_lengths(self._prompt.plan))
        return logits

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Read joined ids, int64 [samples * per_step], those of the first sample first.

        Returns:
            fp32 logits [samples * per_step, ids of the modality] of as many next ones.
        """
        if self._direct is not None:
            logits = self._direct.step(ids, self._modality, self._cache, self._modality)
        else:
            logits = self._read(self._step.batch(ids))
        self._cache.advance(torch.full((len(ids) // self.per_step,), self.per_step))
        return logits

    def _read(self, batch: Batch) -> torch.Tensor:
        if self._direct is not None:
            return self._direct.forward(batch, self._cache, self._modality)
        return self.model(batch, cache=self._cache, return_logits=True, only=self._modality)
