"""Running a model token by token: batches of new tokens, and decoders that keep keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import KVCache, MARSModel
from mars_megatron.sampling.direct import DirectDecoding
from mars_megatron.sampling.logits_to_ids import sample_ids
from mars_megatron.sequence import TEXT, VISUAL, DispatchPlan, build_plan
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary

_NO_TARGETS = torch.zeros(0, dtype=torch.int64)


def pack_samples(
    samples: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    row_multiple: int = 1,
    every_token: bool = False,
    num_last: int = 1,
) -> Batch:
    """Pack samples without targets, on the CPU.

    Args:
        samples: Joined ids of each sample; none empty.
        vocabulary: Layout of the joined ids.
        row_multiple: Both modalities' rows are padded to a multiple of this.
        every_token: Ask for the logits of every token, in sequence order, instead of each sample's last ones.
        num_last: Tokens at the end of each sample whose logits are asked for; no sample is shorter.
    """
    assert samples and all(len(sample) > 0 for sample in samples), "there is an empty sample"
    ends = torch.tensor([0] + [len(sample) for sample in samples]).cumsum(0)
    ids = torch.tensor([token for sample in samples for token in sample], dtype=torch.int64)  # [T] joined
    modality = vocabulary.modality(ids)
    plan = build_plan(modality, ends.int(), row_multiple=row_multiple)
    input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
    input_ids[plan.sequence_to_sorted] = torch.where(modality == VISUAL, vocabulary.image_row(ids), ids)
    rows = plan.sequence_to_sorted
    last = ends[1:, None] + torch.arange(-num_last, 0)
    return _batch(plan, input_ids, rows if every_token else rows[last.flatten()])


def sample_lengths(plan: DispatchPlan) -> torch.Tensor:
    """int64 [num_samples] on the host: what the KV cache advances by. The plan must still be on the CPU."""
    return plan.cu_seqlens.long().diff()


@dataclass(frozen=True)
class DecodeStep:
    """New tokens for each sample, of modalities that are known: the plan stays the same while only ids change.

    Args:
        template: Batch with the plan of a step, on the device of the model.
        id_offset: What is taken off a joined id to get a row of its table; int64 [num_samples] if they differ.
    """

    template: Batch
    id_offset: int | torch.Tensor

    @classmethod
    def build(
        cls,
        num_samples: int,
        modality: int,
        vocabulary: Vocabulary,
        row_multiple: int = 1,
        device: torch.device | str = "cpu",
        num_tokens: int = 1,
    ) -> DecodeStep:
        """The step of `num_samples` samples that all go on with `num_tokens` tokens of `modality`."""
        ends = torch.arange(num_samples + 1, dtype=torch.int32) * num_tokens
        modalities = torch.full((num_samples * num_tokens,), modality, dtype=torch.uint8)
        plan = build_plan(modalities, ends, row_multiple=row_multiple)
        input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
        offset = vocabulary.text_size if modality == VISUAL else 0
        return cls(_batch(plan, input_ids, plan.sequence_to_sorted).to(device), offset)

    @classmethod
    def mixed(
        cls,
        modalities: Sequence[int],
        vocabulary: Vocabulary,
        row_multiple: int = 1,
        device: torch.device | str = "cpu",
    ) -> DecodeStep:
        """The step in which each sample goes on with one token, of its own modality."""
        ends = torch.arange(len(modalities) + 1, dtype=torch.int32)
        modality = torch.tensor(modalities, dtype=torch.uint8)
        plan = build_plan(modality, ends, row_multiple=row_multiple)
        input_ids = torch.zeros(plan.num_rows, dtype=torch.int64)
        offset = modality.long() * vocabulary.text_size
        return cls(_batch(plan, input_ids, plan.sequence_to_sorted).to(device), offset.to(device))

    def batch(self, ids: torch.Tensor) -> Batch:
        """The batch that feeds joined ids int64 [num_samples * num_tokens], those of the first sample first."""
        input_ids = self.template.input_ids.index_copy(0, self.template.loss_rows, ids - self.id_offset)
        return replace(self.template, input_ids=input_ids)


def _batch(plan: DispatchPlan, input_ids: torch.Tensor, wanted: torch.Tensor) -> Batch:
    return Batch(
        plan=plan,
        input_ids=input_ids,
        loss_rows=wanted,
        targets=_NO_TARGETS,
        num_text_targets=0,
        num_visual_targets=0,
    )


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


def ids_sampler(config: GenerationConfig, temperature: float | None = None) -> Callable[..., torch.Tensor]:
    """`sample_ids` with the settings of a configuration; `temperature` in place of its own."""
    return partial(
        sample_ids,
        temperature=config.temperature if temperature is None else temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
    )


class _CachedModel:
    """Samples whose prefixes are read once, with their keys and values kept.

    Args:
        model, vocabulary, samples, per_step: See `Decoder`.
        max_new_tokens: How many tokens each sample is given at most.
        only: Modality whose logits are computed; None for all ids.
    """

    def __init__(
        self,
        model: MARSModel,
        vocabulary: Vocabulary,
        samples: Sequence[Sequence[int]],
        max_new_tokens: int,
        only: int | None = None,
        per_step: int = 1,
    ) -> None:
        self.model, self.vocabulary = model, vocabulary
        self._only = only
        self._prompt = pack_samples(samples, vocabulary, row_multiple(model), num_last=per_step)
        self._cache = KVCache(len(samples), max(len(sample) for sample in samples) + max_new_tokens)
        self._direct = DirectDecoding(model, self._cache.max_length) if DirectDecoding.serves(model) else None

    def start(self) -> torch.Tensor:
        """Read the prefixes; fp32 logits [samples * per_step, ids] of the first new tokens."""
        logits = self._read(self._prompt.to(platform.device()))
        self._cache.advance(sample_lengths(self._prompt.plan))
        return logits

    def _read(self, batch: Batch) -> torch.Tensor:
        if self._direct is not None:
            return self._direct.forward(batch, self._cache, self._only)
        return self.model(batch, cache=self._cache, return_logits=True, only=self._only)


class Decoder(_CachedModel):
    """Decodes some samples together whose new tokens are all of one modality.

    Args:
        model: The whole model (one pipeline stage).
        vocabulary: Layout of the joined ids.
        samples: Joined ids that each sample begins with; lengths may differ.
        modality: Modality of all tokens to come; logits are those of its ids.
        max_new_tokens: How many of them each sample is given at most.
        per_step: Tokens that each sample is given in a step, and whose logits it returns: the K of next-K-token
            prediction, with which each sample's prefix ends in its K start slots.
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
        super().__init__(model, vocabulary, samples, max_new_tokens, modality, per_step)
        self.per_step, self._modality = per_step, modality
        if self._direct is None:
            multiple, device = row_multiple(model), platform.device()
            self._step = DecodeStep.build(len(samples), modality, vocabulary, multiple, device, per_step)

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


class MixedDecoder(_CachedModel):
    """Decodes some samples together whose new tokens may be of different modalities; logits are those of all ids.

    A plan is made when the modalities are not those of the step before: while all go on as they did, a step costs what
    it costs where the modality never changes.

    Args:
        model, vocabulary, samples: See `Decoder`.
        max_new_tokens: How many tokens each sample is given at most.
    """

    def __init__(
        self, model: MARSModel, vocabulary: Vocabulary, samples: Sequence[Sequence[int]], max_new_tokens: int
    ) -> None:
        # One place more, for what a sample is fed that does not go on.
        super().__init__(model, vocabulary, samples, max_new_tokens + 1)
        self._modalities: list[int] = []
        self._step: DecodeStep | None = None

    def step(self, ids: Sequence[int], goes_on: Sequence[bool]) -> torch.Tensor:
        """Read one token of each sample.

        Args:
            ids: Joined id for each sample.
            goes_on: Whether the sample keeps it. One that does not is where it was after the step, and its logits mean
                nothing.

        Returns:
            fp32 logits [samples, vocabulary.size] of the next ones.
        """
        modalities = [VISUAL if token >= self.vocabulary.text_size else TEXT for token in ids]
        device = platform.device()
        joined = torch.tensor(ids, device=device)
        if self._direct is not None and len(set(modalities)) == 1:
            logits = self._direct.step(joined, modalities[0], self._cache)
        else:
            if self._step is None or modalities != self._modalities:
                self._step = DecodeStep.mixed(modalities, self.vocabulary, row_multiple(self.model), device)
                self._modalities = modalities
            logits = self._read(self._step.batch(joined))
        self._cache.advance(torch.tensor(goes_on, dtype=torch.int64))
        return logits

    def rewind(self, sample: int, length: int) -> None:
        """Go back to the first `length` tokens of a sample without text."""
        self._cache.rewind(sample, length)
