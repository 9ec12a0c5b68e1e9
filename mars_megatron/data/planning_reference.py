"""The specification of csrc/corpus.cpp and csrc/round_plan.cpp, in Python: for tests, and where nothing is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mars_megatron.data import hashing
from mars_megatron.data.packing import pack
from mars_megatron.index.modes import (
    KIND_INTERLEAVED,
    KIND_TEXT,
    KINDS,
    MAX_CAPTIONS,
    MODE_IMAGE,
    MODE_LOW,
    MODE_PART_IMAGE,
    MODE_PART_TEXT,
    MODE_TEXT,
    NUM_IMAGES,
    document_kind,
)
from mars_megatron.sequence.samples import I2T, INTERLEAVED, SR, T2I, TASKS, TEXT_ONLY

if TYPE_CHECKING:
    from mars_megatron.data.planning import CorpusArrays, RoundSettings, Stream

DROPPED = 0x80  # bit of a sample's task


def kind_of(corpus: CorpusArrays, document: int) -> int:
    """Kind of a document."""
    begin, end = corpus.boundaries[document : document + 2].tolist()
    return document_kind(corpus.modes[begin:end])


def scan(corpus: CorpusArrays) -> dict[str, Any]:
    """Documents by kind, the longest text of each kind (of interleaved ones: the rows) and its document, and the first
    problem found ("" if there is none)."""
    documents, longest, longest_document = ([0] * len(KINDS) for _ in range(3))
    for document in range(len(corpus.boundaries) - 1):
        begin, end = corpus.boundaries[document : document + 2].tolist()
        problem, length = "is empty or lies outside of the index", 0
        if (document or begin == 0) and begin < end <= len(corpus.lengths):
            kind = kind_of(corpus, document)
            problem, length = _check_document(corpus, document, kind)
            documents[kind] += not problem
            if length > longest[kind]:
                longest[kind], longest_document[kind] = length, document
        if problem:
            problem = f"document {document} {problem}"
            break
    else:
        covered = int(corpus.boundaries[-1]) if len(corpus.boundaries) > 1 else 0
        problem = "" if covered == len(corpus.lengths) else "has sequences behind its last document"
    return {"documents": documents, "longest": longest, "longest_document": longest_document, "problem": problem}


def _check_document(corpus: CorpusArrays, document: int, kind: int) -> tuple[str, int]:
    """(what is wrong, the longest text)."""
    begin, end = corpus.boundaries[document : document + 2].tolist()
    modes, lengths = corpus.modes[begin:end].tolist(), corpus.lengths[begin:end].tolist()
    other_size = "has an image of another size than the manifest says"
    sizes = {MODE_IMAGE: corpus.num_codes, MODE_PART_IMAGE: corpus.num_codes, MODE_LOW: corpus.num_low_codes}
    if kind == KIND_INTERLEAVED:
        for mode, length in zip(modes, lengths, strict=True):
            if length < 1:
                return "has an empty sequence", 0
            if mode not in (MODE_PART_TEXT, MODE_PART_IMAGE):
                return "mixes parts of interleaved documents with others", 0
            if length != sizes.get(mode, length):
                return other_size, 0
        return "", sample_rows(corpus, document, INTERLEAVED, 0)
    num_captions = len(modes) - int(NUM_IMAGES[kind])
    if num_captions == 0:
        return "has an image without a caption", 0
    if num_captions > MAX_CAPTIONS:
        return "has more than 65535 captions", 0
    if kind == KIND_TEXT and num_captions != 1:
        return "has more than one text and no image", 0
    for number, (mode, length) in enumerate(zip(modes, lengths, strict=True)):
        if length < 1:
            return "has an empty sequence", 0
        weight = 1.0 if corpus.weights is None else float(corpus.weights[begin + number])
        if number < num_captions and not 0 < weight < math.inf:
            return "has a caption weight that is not a finite number above 0", 0
        if number < num_captions and mode != MODE_TEXT:
            return "is not captions followed by an image", 0
        if number >= num_captions and length != sizes[mode]:
            return other_size, 0
    return "", max(lengths[:num_captions])


def sample_rows(corpus: CorpusArrays, document: int, task: int, text: int) -> int:
    """Input rows of a sample with `text` tokens of its caption or text; see samples.py for the layouts."""
    if task == INTERLEAVED:
        part = slice(*corpus.boundaries[document : document + 2].tolist())
        return int(corpus.lengths[part].sum()) + 2 * int((corpus.modes[part] == MODE_PART_IMAGE).sum())
    return {
        T2I: text + corpus.num_codes + 1,
        I2T: text + corpus.num_codes + 2,
        SR: text + corpus.num_low_codes + corpus.num_codes + 3,
        TEXT_ONLY: text,
    }[task]


def divide_documents(corpus: CorpusArrays, first_slot: int, end_slot: int) -> list[np.ndarray]:
    """Of each kind uint32: its documents among some slots of the split, in their order."""
    documents = hashing.split_slots(len(corpus.boundaries) - 1, np.arange(first_slot, end_slot))
    kinds = np.array([kind_of(corpus, document) for document in documents.tolist()], dtype=np.int64)
    return [documents[kinds == kind].astype(np.uint32) for kind in range(len(KINDS))]


def plan_round(
    corpora: Sequence[CorpusArrays], streams: Sequence[Stream], settings: RoundSettings
) -> tuple[np.ndarray, np.ndarray, int]:
    """As planning.plan_round, with each sample as a row (document, caption, corpus, task)."""
    samples, rows, num_too_long = [], [], 0
    walks = [_walk(corpora[stream.corpus], stream, settings) for stream in streams]
    for number in _spread([stream.count for stream in streams]):
        sample, length = walks[number]()
        if length <= settings.budget:
            samples.append(sample)
            rows.append(length)
        elif settings.skip_too_long:
            num_too_long += 1
        else:
            raise ValueError(f"a sample of document {sample[0]} has {length} rows, a pack {settings.budget}")
    tasks = np.array([sample[3] & ~DROPPED for sample in samples], dtype=np.int64)
    lengths = np.array(rows, dtype=np.int64)
    by_task = [np.flatnonzero(tasks == task) for task in range(len(TASKS))]
    packs: list[list[np.ndarray]] = []
    for group in by_task if settings.pack_by_task else [np.arange(len(tasks))]:
        members, offsets = pack(lengths[group], settings.budget, settings.lookahead)
        packs.append(np.split(group[members], offsets[1:-1]) if len(group) else [])
    counts = [len(group) for group in packs]
    order, following = [], [iter(group) for group in packs]
    for number in _in_turn(counts) if settings.tasks_in_turn else _spread(counts):
        order.append(next(following[number]))
    planned = np.array([samples[position] for members in order for position in members.tolist()], dtype=np.int64)
    return planned.reshape(-1, 4), np.cumsum([0, *(len(members) for members in order)]), num_too_long


def _walk(
    corpus: CorpusArrays, stream: Stream, settings: RoundSettings
) -> Callable[[], tuple[tuple[int, int, int, int], int]]:
    """A function that returns the stream's next sample and its rows."""
    position = stream.start

    def following() -> tuple[tuple[int, int, int, int], int]:
        nonlocal position
        epoch, rank = divmod(position, stream.num_documents)
        position += 1

        def key(purpose: int) -> np.ndarray:
            return hashing.make_key(purpose, settings.seed, epoch, stream.corpus)

        place = int(hashing.permute(key(hashing.ORDER), stream.num_documents, np.array([rank]))[0])
        if stream.documents is not None:
            document = int(stream.documents[place])
        else:
            slot = np.array([stream.first_slot + place])
            document = int(hashing.split_slots(len(corpus.boundaries) - 1, slot)[0])
        # Multiples of the golden ratio spread evenly: every stretch of samples has the tasks in their shares.
        offset = int(hashing.draw(key(hashing.TASK), np.array([0]))[0])
        point = (offset + rank * hashing.GAMMA) & hashing.MASK
        task = next(task for task, limit in zip(stream.tasks, stream.limits, strict=True) if point <= limit)
        if task == INTERLEAVED:
            return (document, 0, stream.corpus, task), sample_rows(corpus, document, task, 0)
        one = np.array([document])
        caption = _choose_caption(corpus, document, stream.kind, float(hashing.uniform(key(hashing.CAPTION), one)[0]))
        dropped = task in (T2I, SR) and hashing.uniform(key(hashing.DROPOUT), one)[0] < settings.dropout
        text = 0 if dropped else int(corpus.lengths[corpus.boundaries[document] + caption])
        sample = (document, caption, stream.corpus, task | (DROPPED if dropped else 0))
        return sample, sample_rows(corpus, document, task, text)

    return following


def _choose_caption(corpus: CorpusArrays, document: int, kind: int, point: float) -> int:
    begin, end = corpus.boundaries[document : document + 2].tolist()
    number = end - begin - int(NUM_IMAGES[kind])
    if number == 1 or corpus.weights is None:
        return int(point * number)
    ends = np.cumsum(corpus.weights[begin : begin + number].astype(np.float64)).tolist()
    beyond = [caption for caption, end in enumerate(ends) if point * ends[-1] < end]
    return beyond[0] if beyond else number - 1  # should rounding leave the point at the very end


def _spread(counts: Sequence[int]) -> list[int]:
    """Each group so often as it has items, evenly over the whole: item i of n has its place at (2i + 1) / 2n."""
    group = np.repeat(np.arange(len(counts)), counts).tolist()
    number = [i for count in counts for i in range(count)]
    scale = int(np.lcm.reduce([count for count in counts if count], dtype=object)) if any(counts) else 1
    places = [(2 * i + 1) * (scale // counts[g]) for g, i in zip(group, number, strict=True)]
    return [group[i] for i in sorted(range(len(group)), key=lambda i: (places[i], group[i]))]


def _in_turn(counts: Sequence[int]) -> list[int]:
    """One of each group after the other, as long as they have items."""
    return [group for number in range(max(counts, default=0)) for group in range(len(counts)) if counts[group] > number]
