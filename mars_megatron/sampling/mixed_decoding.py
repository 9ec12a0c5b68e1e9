"""Decoding samples of which some write while others draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron import platform
from mars_megatron.model import KVCache, MARSModel
from mars_megatron.sampling.batches import DecodeStep, pack_samples, sample_lengths
from mars_megatron.sampling.decoding import row_multiple
from mars_megatron.sampling.direct import DirectDecoding
from mars_megatron.sequence import TEXT, VISUAL
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary


class MixedDecoder:
    """Decodes some samples together whose next tokens may be of different modalities.

    A plan is made when the modalities are not those of the step before: while all go on as they did, a step costs what
    it costs where the modality never changes.

    Args:
        model: The whole model (one pipeline stage).
        vocabulary: Layout of the joined ids.
        samples: Joined ids that each sample begins with; lengths may differ.
        max_new_tokens: How many tokens each sample is given at most.
    """

    def __init__(
        self, model: MARSModel, vocabulary: Vocabulary, samples: Sequence[Sequence[int]], max_new_tokens: int
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self._prompt = pack_samples(samples, vocabulary, row_multiple(model))
        # One place more, for what a sample is fed that does not go on.
        self._cache = KVCache(len(samples), max(len(sample) for sample in samples) + max_new_tokens + 1)
        self._modalities: list[int] = []
        self._step: DecodeStep | None = None
        self._direct = DirectDecoding(model, self._cache.max_length) if DirectDecoding.serves(model) else None

    def start(self) -> torch.Tensor:
        """Read the beginnings; fp32 logits [samples, vocabulary.size] of the first new tokens."""
        logits = self._read(self._prompt.to(platform.device()))
        self._cache.advance(sample_lengths(self._prompt.plan))
        return logits

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

    def _read(self, batch: Batch) -> torch.Tensor:
        if self._direct is not None:
            return self._direct.forward(batch, self._cache)
        return self.model(batch, cache=self._cache, return_logits=True)

    def rewind(self, sample: int, length: int) -> None:
        """Go back to the first `length` tokens of a sample without text."""
        self._cache.rewind(sample, length)
