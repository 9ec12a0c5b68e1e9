"""The global sequence of micro-batches, and the part of it that one data-parallel rank reads."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mars_megatron.config.schema import DataConfig, RunConfig
from mars_megatron.data.batch import Batch, Sample, collate
from mars_megatron.data.epoch import (
    NO_CAPTION,
    Epoch,
    image_tasks,
    longest_sample,
    split_documents,
    train_epoch,
    validation_epoch,
)
from mars_megatron.data.packing import MAX_ROW_MULTIPLE, RESERVED_ROWS
from mars_megatron.data.samples import I2T, make_sample, num_rows
from mars_megatron.data.store import Store
from mars_megatron.ops import padded_counts
from mars_megatron.tokenizers.fingerprint import image_fingerprint, text_fingerprint
from mars_megatron.tokenizers.vocabulary import Vocabulary


class MicroBatches(Dataset):
    """Micro-batches number 0, 1, 2, ... without end, the same on every rank and in every worker.

    Training runs through one epoch after another; validation repeats its one epoch.

    Args:
        store: The index.
        documents: int64, the documents of the split.
        vocabulary: Layout of the joined ids.
        data: Packing budget, tasks, dropout and seed.
        train: Training or validation.
        row_multiple: Both modalities' rows are padded to a multiple of this.
        fill: Pad every micro-batch to exactly the budget, as pipeline stages that exchange them need.
        expert_parallel: Expert-parallel size: so many consecutive micro-batches are processed at the same time, and
            the plan of each knows the others' rows.

    Raises:
        ValueError: No documents, or a setting that does not fit them.
    """

    def __init__(
        self,
        store: Store,
        documents: np.ndarray,
        vocabulary: Vocabulary,
        data: DataConfig,
        *,
        train: bool = True,
        row_multiple: int = 1,
        fill: bool = True,
        expert_parallel: int = 1,
    ) -> None:
        self.store = store
        self.documents = documents
        self.vocabulary = vocabulary
        self.data = data
        self.train = train
        self.row_multiple = row_multiple
        self.fill = fill
        self.expert_parallel = expert_parallel
        self._check_settings()
        # first micro-batch of every epoch met so far, and the one after the last; their plans are rebuilt
        self._starts = [0]
        self._current: tuple[int, Epoch] = (0, self._build(0))
        self._starts.append(self._current[1].num_packs)

    def epoch(self, number: int) -> Epoch:
        """The samples and packs of one epoch."""
        if self._current[0] != number:
            self._current = (number, self._build(number))
        return self._current[1]

    def locate(self, index: int) -> tuple[int, int]:
        """(epoch, pack) of a micro-batch."""
        if not self.train:
            return 0, index % self._starts[1]
        while self._starts[-1] <= index:
            self._starts.append(self._starts[-1] + self.epoch(len(self._starts) - 1).num_packs)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - self._starts[number]

    def samples(self, index: int) -> list[Sample]:
        """The laid-out samples of a micro-batch."""
        number, pack = self.locate(index)
        eos_id = self.store.manifest.text_tokenizer.eos_id
        samples = []
        for document, task, caption in self.epoch(number).pack(pack):
            text = None if caption == NO_CAPTION else self.store.tokens(caption)
            codes = self.store.codes(document) if self.store.is_image[document] else None
            samples.append(make_sample(task, text, codes, self.vocabulary, eos_id))
        return samples

    def __getitem__(self, index: int) -> Batch:
        batch = collate(self.samples(index), self.vocabulary, self.row_multiple, self._total_rows, index)
        if self.expert_parallel == 1:
            return batch
        first = index - index % self.expert_parallel
        peers = [self.peer(number) for number in range(first, first + self.expert_parallel)]
        plan = replace(
            batch.plan,
            expert_peers=tuple(rows for rows, _ in peers),
            # All of them, or none, leave out the backward of the text stream and its collectives.
            image_before_text=any(image_before_text for _, image_before_text in peers),
        )
        return replace(batch, plan=plan)

    def peer(self, index: int) -> tuple[tuple[int, int], bool]:
        """(text, visual) rows of a micro-batch and its image_before_text, without reading its tokens."""
        number, pack = self.locate(index)
        num_text = num_visual = 0
        image_before_text = False
        for document, task, caption in self.epoch(number).pack(pack):
            text = 0 if caption == NO_CAPTION else int(self.store.lengths[caption])
            codes = self.store.num_codes if self.store.is_image[document] else 0
            num_text += text
            num_visual += int(num_rows(task, text, codes)) - text
            image_before_text |= task == I2T and text > 0
        return padded_counts(num_text, num_visual, self.row_multiple, self._total_rows), image_before_text

    @property
    def _total_rows(self) -> int | None:
        return self.data.micro_batch_tokens if self.fill else None

    def _build(self, number: int) -> Epoch:
        if self.train:
            return train_epoch(self.store, self.documents, self.data, number)
        return validation_epoch(self.store, self.documents, self.data)

    def _check_settings(self) -> None:
        budget = self.data.micro_batch_tokens
        if len(self.documents) == 0:
            raise ValueError(f"no {'training' if self.train else 'validation'} documents in {self.store.prefix}")
        if self.row_multiple > MAX_ROW_MULTIPLE:
            raise ValueError(
                f"parallel.tensor is {self.row_multiple}; with parallel.sequence it is at most {MAX_ROW_MULTIPLE}"
            )
        if budget % self.row_multiple:
            raise ValueError(
                f"data.micro_batch_tokens is {budget}; with parallel.sequence it must be a multiple of "
                f"parallel.tensor ({self.row_multiple})"
            )
        tasks = [task for task, _ in image_tasks(self.data)]
        rows, document = longest_sample(self.store, self.documents, tasks)
        if rows > budget - RESERVED_ROWS:
            raise ValueError(
                f"data.micro_batch_tokens is {budget}; the longest sample of {self.store.prefix} (document "
                f"{document}) has {rows} tokens and needs at least {rows + RESERVED_ROWS}"
            )


def build_loader(
    config: RunConfig,
    vocabulary: Vocabulary,
    *,
    split: str = "train",
    dp_rank: int = 0,
    dp_size: int = 1,
    start: int = 0,
    row_multiple: int = 1,
) -> Iterator[Batch]:
    """An endless iterator over the micro-batches of one data-parallel rank.

    Args:
        config: The run.
        vocabulary: Layout of the joined ids.
        split: "train" or "validation".
        dp_rank: Data-parallel rank: it reads the micro-batches g with g % dp_size == dp_rank.
        dp_size: Data-parallel size.
        start: Global number of the first micro-batch that has not been used yet (steps done times
            training.global_batch_size); a multiple of parallel.expert.
        row_multiple: The tensor-parallel size under sequence parallelism, else 1.

    Raises:
        ValueError: An index is missing, damaged or not made for this configuration; see Store and check_index.
    """
    batches = open_micro_batches(config, vocabulary, split=split, row_multiple=row_multiple)
    if split == "train" and config.training.global_batch_size % dp_size:
        raise ValueError(
            f"training.global_batch_size is {config.training.global_batch_size}; it must be a "
            f"multiple of the data-parallel size, {dp_size}"
        )
    if start % config.parallel.expert:
        raise ValueError(
            f"parallel.expert is {config.parallel.expert}; accepted: a divisor of the {start} micro-batches that this "
            "run has consumed, because so many consecutive ones are processed together"
        )
    first = start + (dp_rank - start) % dp_size
    workers = config.data.num_workers
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=_Numbers(first, dp_size),
            num_workers=workers,
            collate_fn=_unchanged,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # or it would draw from, and change, the global random state
        )
    )


def open_micro_batches(
    config: RunConfig, vocabulary: Vocabulary, *, split: str = "train", row_multiple: int = 1
) -> MicroBatches:
    """The global sequence of one split; arguments and errors as in build_loader."""
    assert split in ("train", "validation"), split
    data = config.data
    train = split == "train"
    separate = data.validation_path != ""
    store = Store(data.validation_path if separate and not train else data.path)
    check_index(store, config, vocabulary)
    if separate:
        documents = np.arange(store.num_documents)
    else:
        documents = split_documents(store.num_documents, data.validation_fraction)[0 if train else 1]
        if len(documents) == 0:
            raise ValueError(
                f"data.validation_fraction is {data.validation_fraction}, which leaves no {split} "
                f"documents of the {store.num_documents} in {store.prefix}; change it or set data.validation_path"
            )
    return MicroBatches(
        store,
        documents,
        vocabulary,
        data,
        train=train,
        row_multiple=row_multiple,
        fill=config.parallel.pipeline > 1,
        expert_parallel=config.parallel.expert,
    )


def check_index(store: Store, config: RunConfig, vocabulary: Vocabulary) -> None:
    """Refuse an index that was not made for this configuration.

    Raises:
        ValueError: The configured tokenizers are not the index's, or sizes or the grid differ.
    """
    text, image = store.manifest.text_tokenizer, store.manifest.image_tokenizer
    manifest = f"{store.prefix}.json"
    configured = config.data.text_tokenizer
    if configured and text_fingerprint(configured) != text.fingerprint:
        raise ValueError(
            f"data.text_tokenizer is {configured}, but {store.prefix} was made with another "
            f"one ({text.path}, see {manifest}); index again or set the tokenizer it was made with"
        )
    if text.size > vocabulary.text_size:
        raise ValueError(
            f"vocabulary.text_size is {vocabulary.text_size}; the text tokenizer of {store.prefix} has {text.size} ids"
        )
    if image is None:
        return
    configured = config.data.image_tokenizer
    if configured and image_fingerprint(configured) != image.fingerprint:
        raise ValueError(
            f"data.image_tokenizer is {configured}, but {store.prefix} was made with another "
            f"one ({image.path}, see {manifest}); index again or set the tokenizer it was made with"
        )
    if image.codebook_size != vocabulary.codebook_size:
        raise ValueError(
            f"vocabulary.codebook_size is {vocabulary.codebook_size}; the image tokenizer of {store.prefix} "
            f"has {image.codebook_size} codes"
        )
    side = config.image.resolution // config.image.downsample
    if image.grid != (side, side):
        raise ValueError(
            f"image.resolution / image.downsample is {config.image.resolution} / {config.image.downsample}, a "
            f"grid of {side} x {side}; the images of {store.prefix} have {image.grid[0]} x {image.grid[1]} codes"
        )


class _Numbers:
    """The micro-batch numbers first, first + step, ... as a sampler."""

    def __init__(self, first: int, step: int) -> None:
        self.first = first
        self.step = step

    def __iter__(self) -> Iterator[int]:
        return count(self.first, self.step)


def _ignore_signals(_worker: int) -> None:
    """Leave a request to stop to the training process, which ends its workers when it has saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch
