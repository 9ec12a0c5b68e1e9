"""Micro-batches by number: the same ones on every rank and in every worker, whatever the layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from mars_megatron.config.schema import DataConfig, RunConfig
from mars_megatron.data.blend import Blend, corpora_of, num_held_out, validation_corpora, validation_streams
from mars_megatron.data.checks import check_budget, check_longest, nothing_held_out, open_stores
from mars_megatron.data.packing import RESERVED_ROWS
from mars_megatron.data.planning import DROPPED, RoundSettings
from mars_megatron.data.rounds import Rounds
from mars_megatron.data.store import Store
from mars_megatron.index.modes import KINDS, MODE_PART_IMAGE
from mars_megatron.sequence import padded_counts
from mars_megatron.sequence.batch import MIXED, Batch, Sample, collate
from mars_megatron.sequence.code_order import code_order
from mars_megatron.sequence.samples import (
    IMAGE_BEFORE_TEXT,
    INTERLEAVED,
    SR,
    TEXT_ONLY,
    make_interleaved,
    make_sample,
)
from mars_megatron.sequence.vocabulary import Vocabulary


class MicroBatches(Dataset):
    """Micro-batches number 0, 1, 2, ... without end.

    Training goes on and on; validation repeats its one round.

    Args:
        stores: The corpora.
        rounds: Their samples, packed.
        vocabulary: Layout of the joined ids.
        data: Packing budget.
        row_multiple: Both modalities' rows are padded to a multiple of this.
        fill: Pad every micro-batch to exactly the budget, as pipeline stages that exchange them need.
        expert_parallel: Expert-parallel size: so many consecutive micro-batches are processed at the same time, and
            the plan of each knows the others' rows.
        blend: What training samples are drawn from, for `describe`; None for validation.
        order: See `make_sample`.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        rounds: Rounds,
        vocabulary: Vocabulary,
        data: DataConfig,
        *,
        row_multiple: int = 1,
        fill: bool = True,
        expert_parallel: int = 1,
        blend: Blend | None = None,
        order: np.ndarray | None = None,
    ) -> None:
        self.order = order
        self.stores, self.rounds, self.vocabulary, self.blend = stores, rounds, vocabulary, blend
        self.row_multiple, self.expert_parallel = row_multiple, expert_parallel
        self.total_rows = data.micro_batch_tokens if fill else None
        self.eos_id = stores[0].manifest.text_tokenizer.eos_id

    def describe(self) -> str:
        """One line on what is trained: the documents, the tasks' shares, and what is left out of the round at hand."""
        assert self.blend is not None
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.blend.shares().items())
        trained = {(part.corpus, part.kind) for part in self.blend.parts}
        counts, unused = [0] * len(KINDS), 0
        for number, store in enumerate(self.stores):
            for kind, count in enumerate(store.scan.documents):
                counts[kind] += count
                unused += 0 if (number, kind) in trained else count
        documents = ", ".join(f"{count} {name}" for name, count in zip(KINDS, counts, strict=True) if count)
        corpora = f" of {len(self.stores)} corpora" if len(self.stores) > 1 else ""
        notes = f"; {unused} of them are not trained: no weight of a task, or of the corpus" if unused else ""
        round_ = self.rounds.latest()
        if round_.num_too_long:
            total = len(round_.samples) + round_.num_too_long
            notes += f"; {round_.num_too_long} of the next {total} samples are too long and left out"
        return f"data: {documents} documents{corpora}{notes}; samples: {shares}"

    def samples(self, index: int) -> list[Sample]:
        """The laid-out samples of a micro-batch."""
        return [self._sample(*sample) for sample in self.rounds.samples(index).tolist()]

    def __getitem__(self, index: int) -> Batch:
        samples = self.samples(index)
        tasks = {task & ~DROPPED for task in self.rounds.samples(index)["task"].tolist()}
        task = tasks.pop() if len(tasks) == 1 else MIXED
        batch = collate(samples, self.vocabulary, self.row_multiple, self.total_rows, index, task)
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
        num_text = num_visual = 0
        image_before_text = False
        for document, caption, corpus, flags in self.rounds.samples(index).tolist():
            store, task = self.stores[corpus], flags & ~DROPPED
            if task == INTERLEAVED:
                rows, text, before = _interleaved_rows(store, document)
            else:
                text = 0 if flags & DROPPED else int(store.lengths[store.boundaries[document] + caption])
                rows, before = store.sample_rows(document, task, text), task in IMAGE_BEFORE_TEXT and text > 0
            num_text += text
            num_visual += rows - text
            image_before_text |= before
        return padded_counts(num_text, num_visual, self.row_multiple, self.total_rows), image_before_text

    def _sample(self, document: int, caption: int, corpus: int, flags: int) -> Sample:
        store, task = self.stores[corpus], flags & ~DROPPED
        if task == INTERLEAVED:
            return make_interleaved(store.parts(document), self.vocabulary, self.eos_id)
        text = None if flags & DROPPED else store.caption(document, caption)
        codes = None if task == TEXT_ONLY else store.codes(document)
        low = store.low_codes(document) if task == SR else None
        return make_sample(task, text, codes, self.vocabulary, self.eos_id, low, self.order)


def open_micro_batches(
    config: RunConfig,
    vocabulary: Vocabulary,
    *,
    split: str = "train",
    row_multiple: int = 1,
    stores: dict[str, Store] | None = None,
) -> MicroBatches:
    """The whole sequence of one split.

    Args:
        config: The run.
        vocabulary: Layout of the joined ids.
        split: "train" or "validation".
        row_multiple: The tensor-parallel size under sequence parallelism, else 1.
        stores: What `open_stores` opened; None opens it.

    Raises:
        ValueError: An index is missing, damaged or not made for this configuration, or nothing in it can be used.
    """
    assert split in ("train", "validation"), split
    data, train = config.data, split == "train"
    check_budget(data, row_multiple)
    opened = open_stores(config, vocabulary) if stores is None else stores
    corpora = corpora_of(data) if train else validation_corpora(data)
    used = [opened[corpus.path] for corpus in corpora]
    blend = Blend(used, data) if train else None
    held_out = [] if train else validation_streams(used, data)
    if not train and not held_out:
        pairs = zip(used, corpora, strict=True)
        raise ValueError(nothing_held_out(data, sum(num_held_out(store, corpus, data) for store, corpus in pairs)))
    streams = blend.streams if blend else lambda _number: held_out
    for number, store in enumerate(used):
        check_longest(store, {task for one in streams(0) if one.corpus == number for task in one.tasks}, data)
    settings = RoundSettings(
        seed=data.seed if train else 0,
        dropout=data.caption_dropout if train else 0.0,
        budget=data.micro_batch_tokens - RESERVED_ROWS,
        # Validation tells the losses of the tasks apart, and its first few micro-batches have all of them.
        pack_by_task=data.pack_by_task or not train,
        tasks_in_turn=not train,
        skip_too_long=data.too_long == "skip",
    )
    decided_by = blend.fingerprint() if blend else [(s.corpus, s.kind, s.count, s.tasks) for s in held_out]
    rounds = Rounds(used, settings, streams, decided_by, endless=train, cache=cache_folder(config))
    return MicroBatches(
        used,
        rounds,
        vocabulary,
        data,
        row_multiple=row_multiple,
        fill=config.parallel.pipeline > 1,
        expert_parallel=config.parallel.expert,
        blend=blend,
        order=code_order(config.image) if config.image.order != "raster" else None,
    )


def cache_folder(config: RunConfig) -> Path | None:
    """Where plans are kept; None for memory alone."""
    if config.data.cache_dir:
        return Path(config.data.cache_dir)
    return Path(config.checkpoint.dir) / "data_cache" if config.checkpoint.dir else None


def _interleaved_rows(store: Store, document: int) -> tuple[int, int, bool]:
    """(rows, text tokens that are inputs, whether an image is before a text) of an interleaved sample."""
    part = slice(*store.boundaries[document : document + 2].tolist())
    is_image = store.modes[part] == MODE_PART_IMAGE
    lengths = store.lengths[part].astype(np.int64)
    text = int(lengths[~is_image].sum())
    rows = text + int((lengths[is_image] + 2).sum())
    first_image, last_text = np.flatnonzero(is_image)[:1], np.flatnonzero(~is_image)[-1:]
    before = len(first_image) > 0 and len(last_text) > 0 and first_image[0] < last_text[0]
    return rows, text, bool(before)
