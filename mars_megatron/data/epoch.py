"""Which samples one epoch has, and into which micro-batches they are packed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mars_megatron.config.schema import DataConfig
from mars_megatron.data import hashing
from mars_megatron.data.packing import RESERVED_ROWS, interleave, pack
from mars_megatron.data.samples import I2T, T2I, TASKS, TEXT_ONLY, num_rows
from mars_megatron.data.store import Store

NO_CAPTION = -1


@dataclass(frozen=True)
class Epoch:
    """One epoch as arrays over its samples, pack after pack.

    Args:
        document: int64 [n].
        task: int8 [n], index into TASKS; the same within a pack where data.pack_by_task.
        caption: int64 [n], the sequence that holds the text, or NO_CAPTION.
        offsets: int64 [packs + 1], where each pack begins.
    """

    document: np.ndarray
    task: np.ndarray
    caption: np.ndarray
    offsets: np.ndarray

    @property
    def num_packs(self) -> int:
        return len(self.offsets) - 1

    def pack(self, number: int) -> list[tuple[int, int, int]]:
        """(document, task, caption) of each sample of one pack."""
        part = slice(self.offsets[number], self.offsets[number + 1])
        return list(
            zip(
                self.document[part].tolist(),
                self.task[part].tolist(),
                self.caption[part].tolist(),
                strict=True,
            )
        )


def split_documents(num_documents: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide the documents of an index into training and validation, each int64 ascending.

    Which documents are held out depends on the index alone, never on a seed, so that two runs over one
    corpus share their validation documents.
    """
    documents = np.arange(num_documents)
    order = np.argsort(hashing.draw(hashing.SPLIT, 0, 0, documents), kind="stable")
    num_validation = round(fraction * num_documents)
    return np.sort(order[num_validation:]), np.sort(order[:num_validation])


def image_tasks(data: DataConfig) -> list[tuple[int, float]]:
    """The tasks of image documents that have weight, with their share (sum 1).

    Raises:
        ValueError: A weight is negative, or all are zero.
    """
    weights = [(T2I, data.tasks.t2i), (I2T, data.tasks.i2t)]
    total = sum(weight for _, weight in weights)
    if total <= 0 or min(weight for _, weight in weights) < 0:
        raise ValueError(f"data.tasks is {data.tasks}; weights must not be negative, nor all zero")
    return [(task, weight / total) for task, weight in weights if weight > 0]


def longest_sample(store: Store, documents: np.ndarray, tasks: list[int]) -> tuple[int, int]:
    """(rows, document) of the longest sample that any of the tasks and captions can make."""
    text = np.where(store.is_image, 0, store.lengths[store.first_sequence]).astype(np.int64)
    # longest caption of each image document: its image, the last of its sequences, is left out of the maximum
    lengths = store.lengths.astype(np.int64).copy()
    lengths[(store.first_sequence + store.num_captions)[store.is_image]] = 0
    caption = np.maximum.reduceat(lengths, store.first_sequence)
    of_image = np.max([num_rows(task, caption, store.num_codes) for task in tasks], axis=0)
    rows = np.where(store.is_image, of_image, num_rows(TEXT_ONLY, text, 0))[documents]
    longest = int(rows.argmax())
    return int(rows[longest]), int(documents[longest])


def train_epoch(store: Store, documents: np.ndarray, data: DataConfig, epoch: int) -> Epoch:
    """Each document once, in seeded order, with a seeded task, caption and caption dropout."""
    documents = hashing.permutation(data.seed, epoch, documents)
    tasks = image_tasks(data)
    shares = np.cumsum([share for _, share in tasks])[:-1]
    drawn = np.searchsorted(shares, hashing.uniform(hashing.TASK, data.seed, epoch, documents), side="right")
    task = np.where(store.is_image[documents], np.array([t for t, _ in tasks])[drawn], TEXT_ONLY)
    dropped = hashing.uniform(hashing.DROPOUT, data.seed, epoch, documents) < data.caption_dropout
    return _pack_tasks(store, documents, task, dropped & (task == T2I), data, epoch)


def validation_epoch(store: Store, documents: np.ndarray, data: DataConfig) -> Epoch:
    """Each document once per task that applies to it, always the same, without caption dropout."""
    documents = hashing.permutation(0, 0, documents)
    images = documents[store.is_image[documents]]
    texts = documents[~store.is_image[documents]]
    groups = [(task, images) for task, _ in image_tasks(data)] + [(TEXT_ONLY, texts)]
    task = np.concatenate([np.full(len(members), t) for t, members in groups])
    documents = np.concatenate([members for _, members in groups])
    # Spread every task over the whole, so that also the first few micro-batches have all of them.
    places = np.concatenate([(np.arange(len(members)) + 0.5) / max(len(members), 1) for _, members in groups])
    order = np.argsort(places, kind="stable")
    fixed = replace(data, seed=0)
    return _pack_tasks(store, documents[order], task[order], np.zeros(len(documents), dtype=bool), fixed, 0)


def _pack_tasks(
    store: Store, documents: np.ndarray, task: np.ndarray, dropped: np.ndarray, data: DataConfig, epoch: int
) -> Epoch:
    """Choose captions, pack each task by itself (or all together) and interleave the packs of the tasks."""
    choice = hashing.draw(hashing.CAPTION, data.seed, epoch, documents)
    number = (choice % store.num_captions[documents].astype(np.uint64)).astype(np.int64)
    caption = np.where(dropped, NO_CAPTION, store.first_sequence[documents] + number)
    num_text = np.where(dropped, 0, store.lengths[caption]).astype(np.int64)
    num_codes = np.where(store.is_image[documents], store.num_codes, 0)
    rows = num_rows(task, num_text, num_codes)

    packs: list[list[np.ndarray]] = []
    everything = [np.arange(len(task))]
    for of_task in [np.flatnonzero(task == one) for one in range(len(TASKS))] if data.pack_by_task else everything:
        members, offsets = pack(rows[of_task], data.micro_batch_tokens - RESERVED_ROWS)
        packs.append(np.split(of_task[members], offsets[1:-1]) if len(of_task) else [])
    group, position = interleave([len(p) for p in packs])
    ordered = [packs[g][i] for g, i in zip(group.tolist(), position.tolist(), strict=True)]
    offsets = np.zeros(len(ordered) + 1, dtype=np.int64)
    np.cumsum([len(members) for members in ordered], out=offsets[1:])
    order = np.concatenate(ordered) if ordered else np.zeros(0, dtype=np.int64)
    return Epoch(documents[order], task[order].astype(np.int8), caption[order], offsets)
