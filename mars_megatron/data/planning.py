"""Planning a round of samples, natively or by the reference: one interface for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mars_megatron.data import planning_reference
from mars_megatron.data.packing import LOOKAHEAD
from mars_megatron.sequence import native
from mars_megatron.sequence.plan import Impl

# A sample of a round plan; csrc/round_plan.h has the same layout.
SAMPLE = np.dtype([("document", "<u4"), ("caption", "<u2"), ("corpus", "u1"), ("task", "u1")])
DROPPED = planning_reference.DROPPED  # bit of the task: the caption is dropped


@dataclass(frozen=True, eq=False)
class CorpusArrays:
    """The arrays of an index; see Store.

    Args:
        boundaries: int64 [D + 1].
        lengths: int32 [S].
        modes: int8 [S].
        weights: float32 [S], or None.
        num_codes: Tokens of an image.
        num_low_codes: Tokens of the low-resolution image of a pair.
    """

    boundaries: np.ndarray
    lengths: np.ndarray
    modes: np.ndarray
    weights: np.ndarray | None
    num_codes: int
    num_low_codes: int

    @cached_property
    def native(self) -> Any:
        """The same for the extension."""
        fields = (self.boundaries, self.lengths, self.modes, self.weights, self.num_codes, self.num_low_codes)
        return native.extension().Corpus(*fields)


@dataclass(frozen=True)
class Scan:
    """What a corpus has.

    Args:
        documents: Number by kind (index.modes.KINDS).
        longest: Tokens of the longest text or caption by kind; of interleaved documents the rows of the longest one.
        longest_document: The documents that have these.
        problem: What is wrong with the index; empty if nothing.
    """

    documents: list[int]
    longest: list[int]
    longest_document: list[int]
    problem: str


@dataclass(frozen=True, eq=False)
class Stream:
    """The documents of one kind of a corpus, gone through again and again, in another order each time.

    Args:
        corpus: Number of the corpus.
        kind: Of its documents.
        documents: uint32 [num_documents]; None for those in the slots of the corpus' split from first_slot on.
        first_slot: See documents.
        num_documents: Samples of one epoch.
        start: Samples taken in earlier rounds.
        count: Samples of this round.
        tasks: The tasks that they serve, and
        limits: the upper limits of the tasks' shares of 2^64 (inclusive), ascending; the last is 2^64 - 1.
    """

    corpus: int
    kind: int
    documents: np.ndarray | None
    first_slot: int
    num_documents: int
    start: int
    count: int
    tasks: tuple[int, ...]
    limits: tuple[int, ...]


@dataclass(frozen=True)
class RoundSettings:
    """How samples are drawn and packed.

    Args:
        seed: Of all draws.
        dropout: Probability of dropping the caption of an image that is to be drawn.
        budget: Most rows of a pack.
        pack_by_task: Packs have samples of one task.
        tasks_in_turn: Packs of the tasks come one by one in turn, instead of spread evenly over the round.
        skip_too_long: Leave out samples longer than the budget, instead of refusing them.
        lookahead: Samples that may wait for a pack.
    """

    seed: int
    dropout: float
    budget: int
    pack_by_task: bool
    tasks_in_turn: bool = False
    skip_too_long: bool = False
    lookahead: int = LOOKAHEAD


def scan(corpus: CorpusArrays, impl: Impl = "auto") -> Scan:
    """Look at every document of a corpus, trusting nothing."""
    if native.use_native(impl):
        return Scan(**native.extension().scan_corpus(corpus.native))
    return Scan(**planning_reference.scan(corpus))


def divide_documents(corpus: CorpusArrays, first_slot: int, end_slot: int, impl: Impl = "auto") -> list[np.ndarray]:
    """Of each kind uint32: its documents among some slots of the corpus' split (data.hashing.split_slots)."""
    if native.use_native(impl):
        return native.extension().divide_documents(corpus.native, first_slot, end_slot)
    return planning_reference.divide_documents(corpus, first_slot, end_slot)


def plan_round(
    corpora: Sequence[CorpusArrays], streams: Sequence[Stream], settings: RoundSettings, impl: Impl = "auto"
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw the samples of a round and pack them.

    Args:
        corpora: All corpora; `scan` must have found no problem in them.
        streams: Where samples come from; they are interleaved evenly.
        settings: How they are drawn and packed.
        impl: "native" (C++), "reference" (Python, slow) or "auto": native where the extension is compiled.

    Returns:
        samples: SAMPLE [n], pack after pack.
        offsets: int64 [packs + 1], where each pack begins in samples.
        num_too_long: Samples left out.

    Raises:
        ValueError: A sample is longer than the budget.
    """
    if not native.use_native(impl):
        rows, offsets, num_too_long = planning_reference.plan_round(corpora, streams, settings)
        samples = np.zeros(len(rows), dtype=SAMPLE)
        for column, name in enumerate(SAMPLE.names or ()):
            samples[name] = rows[:, column]
        return samples, offsets, num_too_long
    fields = [
        (s.corpus, s.kind, s.documents, s.first_slot, s.num_documents, s.start, s.count, list(s.tasks), list(s.limits))
        for s in streams
    ]
    samples, offsets, num_too_long = native.extension().plan_round(
        [corpus.native for corpus in corpora],
        fields,
        settings.seed & 0xFFFFFFFFFFFFFFFF,
        settings.dropout,
        settings.budget,
        settings.lookahead,
        settings.pack_by_task,
        settings.tasks_in_turn,
        settings.skip_too_long,
    )
    return samples.view(SAMPLE), offsets, num_too_long
