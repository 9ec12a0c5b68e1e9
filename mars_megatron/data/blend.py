"""Which samples a run sees: corpora and tasks by weight, as an endless sequence that is cut into rounds.

A *stream* is the documents of one kind of one corpus, gone through epoch after epoch, each time in another seeded
order. A sample is at one position of its stream, whatever the layout, so its document, task, caption and dropout can be
told from the seed and that position alone. A *round* takes from every stream its share, evenly interleaved, and is
packed by itself. With a single stream a round is an epoch (of few documents several, of very many a part of one).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import numpy as np

from mars_megatron.config.schema import CorpusConfig, DataConfig, TaskWeights
from mars_megatron.data.planning import Stream, divide_documents
from mars_megatron.data.store import Store
from mars_megatron.index.modes import KINDS
from mars_megatron.sequence.samples import TASKS, TASKS_OF_KIND, TEXT_ONLY

MAX_ROUND_SAMPLES = 1 << 24  # bounds the memory and time of planning one
MIN_ROUND_SAMPLES = 1 << 10  # small rounds would leave many packs half empty at their ends
MAX_VALIDATION_SAMPLES = 1 << 20  # of a stream: far more than anybody waits for
_SHARE_BITS = 40


@dataclass(frozen=True, eq=False)
class Part:
    """A stream with its share of the samples.

    Args:
        corpus: Number of the corpus.
        kind: Of the documents (index.modes.KINDS).
        documents: uint32 [num_documents], or None for slots of the split from first_slot on.
        first_slot: See documents.
        num_documents: How many.
        share: Of all samples.
        tasks: (task, share of the stream's samples) of the tasks that it serves.
    """

    corpus: int
    kind: int
    documents: np.ndarray | None
    first_slot: int
    num_documents: int
    share: Fraction
    tasks: tuple[tuple[int, Fraction], ...]

    def stream(self, start: int, count: int) -> Stream:
        """`count` samples from position `start` on."""
        bounds = list(accumulate(share for _, share in self.tasks))
        limits = [int(bound * (1 << 64)) - 1 for bound in bounds[:-1]] + [(1 << 64) - 1]
        tasks = tuple(task for task, _ in self.tasks)
        fields = (self.corpus, self.kind, self.documents, self.first_slot, self.num_documents)
        return Stream(*fields, start=start, count=count, tasks=tasks, limits=tuple(limits))


class Blend:
    """The streams of the training split.

    Args:
        stores: The corpora, as many as `corpora_of(data)`.
        data: Weights, tasks, validation fraction.

    Attributes:
        parts: Streams with a share above 0.
        round_samples: Samples of a round, more or less one.

    Raises:
        ValueError: A corpus with a weight has nothing to train on.
    """

    def __init__(self, stores: Sequence[Store], data: DataConfig) -> None:
        corpora = corpora_of(data)
        total = sum(Fraction(corpus.weight) for corpus in corpora)
        self.parts: list[Part] = []
        for number, (store, corpus) in enumerate(zip(stores, corpora, strict=True)):
            if corpus.weight > 0:
                share = Fraction(corpus.weight) / total
                self.parts += _parts(number, store, corpus, share, data)
        documents = sum(part.num_documents for part in self.parts)
        epochs = -(-MIN_ROUND_SAMPLES // documents)
        self.round_samples = min(documents * epochs, MAX_ROUND_SAMPLES)

    def streams(self, number: int) -> list[Stream]:
        """What round `number` takes of each stream."""
        starts, ends = self._positions(number), self._positions(number + 1)
        return [part.stream(start, end - start) for part, start, end in zip(self.parts, starts, ends, strict=True)]

    def fingerprint(self) -> list[object]:
        """What `streams` depends on, beside the documents."""
        shares = [(part.corpus, part.kind, self._scaled(part.share)) for part in self.parts]
        return [self.round_samples, shares, [(s.num_documents, s.tasks, s.limits) for s in self.streams(0)]]

    def shares(self) -> dict[str, float]:
        """Share of each task among all samples."""
        shares = dict.fromkeys(TASKS, Fraction(0))
        for part in self.parts:
            for task, share in part.tasks:
                shares[TASKS[task]] += part.share * share
        return {task: float(share) for task, share in shares.items() if share}

    def _positions(self, number: int) -> list[int]:
        """Samples taken from each stream before round `number`: exact integers, the same everywhere."""
        before = number * self.round_samples
        return [(before * self._scaled(part.share)) >> _SHARE_BITS for part in self.parts]

    @staticmethod
    def _scaled(share: Fraction) -> int:
        return round(share * (1 << _SHARE_BITS))


def corpora_of(data: DataConfig) -> tuple[CorpusConfig, ...]:
    """The corpora of a run: data.blend, or data.path alone."""
    return data.blend or (CorpusConfig(path=data.path),)


def validation_corpora(data: DataConfig) -> tuple[CorpusConfig, ...]:
    """The corpora that are validated on, each with its tasks: data.validation_path, or what every corpus holds out; and
    those without weight."""
    corpora = corpora_of(data)
    if not data.validation_path:
        return corpora
    trained = [corpus.tasks or data.tasks for corpus in corpora if corpus.weight]
    any_of_them = TaskWeights(**{task: max(getattr(tasks, task) for tasks in trained) for task in TASKS})
    separate = CorpusConfig(data.validation_path, 0.0, any_of_them)
    return (separate, *(corpus for corpus in corpora if not corpus.weight))


def num_held_out(store: Store, corpus: CorpusConfig, data: DataConfig) -> int:
    """Documents that are not trained, the first slots of a corpus' split; all of a corpus without weight."""
    if not corpus.weight:
        return store.num_documents
    return 0 if data.validation_path else round(data.validation_fraction * store.num_documents)


def _parts(number: int, store: Store, corpus: CorpusConfig, share: Fraction, data: DataConfig) -> list[Part]:
    weights, first_slot = corpus.tasks or data.tasks, num_held_out(store, corpus, data)
    if first_slot == store.num_documents:
        raise ValueError(
            f"data.validation_fraction is {data.validation_fraction}, which leaves no training documents of the "
            f"{store.num_documents} in {store.prefix}; change it or set data.validation_path"
        )
    selected = documents_by_kind(store, first_slot, store.num_documents)
    weight_of = {task: Fraction(getattr(weights, name)) for task, name in enumerate(TASKS)}
    # A task that several kinds serve takes their documents alike.
    serving = {
        task: sum(size for kind, (_, _, size) in selected.items() if task in TASKS_OF_KIND[kind]) for task in weight_of
    }
    by_kind = {
        kind: [(task, weight_of[task] * size / serving[task]) for task in TASKS_OF_KIND[kind] if weight_of[task] > 0]
        for kind, (_, _, size) in selected.items()
    }
    total = sum(weight for tasks in by_kind.values() for _, weight in tasks)
    if total == 0:
        kinds = ", ".join(f"{size} {KINDS[kind]}" for kind, (_, _, size) in selected.items())
        able = sorted({TASKS[task] for kind in selected for task in TASKS_OF_KIND[kind]})
        raise ValueError(
            f"data.tasks is {weights}, but the documents of {store.prefix} ({kinds}) serve {', '.join(able)}; give one "
            "of these a weight"
        )
    parts = []
    for kind, tasks in by_kind.items():
        documents, slot, size = selected[kind]
        of_kind = sum((weight for _, weight in tasks), Fraction(0))
        if of_kind:
            shares = tuple((task, weight / of_kind) for task, weight in tasks)
            parts.append(Part(number, kind, documents, slot, size, share * of_kind / total, shares))
    return parts


def documents_by_kind(store: Store, first_slot: int, end_slot: int) -> dict[int, tuple[np.ndarray | None, int, int]]:
    """(documents or None, first slot, number) of each kind that has documents in some slots of the split.

    A corpus of one kind needs no list: the slots are its documents.
    """
    kinds = [kind for kind, count in enumerate(store.scan.documents) if count]
    if len(kinds) == 1:
        return {kinds[0]: (None, first_slot, end_slot - first_slot)} if end_slot > first_slot else {}
    lists = divide_documents(store.arrays, first_slot, end_slot)
    return {kind: (documents, 0, len(documents)) for kind, documents in enumerate(lists) if len(documents)}


def validation_streams(stores: Sequence[Store], data: DataConfig) -> list[Stream]:
    """What is validated of the stores of `validation_corpora`: every held-out document once per task that applies to
    it. These are the tasks with a weight, and text always: whether the language stays is worth watching."""
    streams = []
    for number, (store, corpus) in enumerate(zip(stores, validation_corpora(data), strict=True)):
        held_out = documents_by_kind(store, 0, num_held_out(store, corpus, data))
        for kind, (documents, slot, size) in held_out.items():
            for task in TASKS_OF_KIND[kind]:
                if task == TEXT_ONLY or getattr(corpus.tasks or data.tasks, TASKS[task]) > 0:
                    part = Part(number, kind, documents, slot, size, Fraction(1), ((task, Fraction(1)),))
                    streams.append(part.stream(0, min(size, MAX_VALIDATION_SAMPLES)))
    return streams


def longest_sample(store: Store, tasks: Collection[int]) -> tuple[int, int]:
    """(rows, document) of the longest sample that any of the tasks and captions can make; (0, -1) without any."""
    found, longest = store.scan, (0, -1)
    for kind, count in enumerate(found.documents):
        if not count:
            continue
        for task in set(TASKS_OF_KIND[kind]) & set(tasks):
            document = found.longest_document[kind]
            longest = max(longest, (store.sample_rows(document, task, found.longest[kind]), document))
    return longest
