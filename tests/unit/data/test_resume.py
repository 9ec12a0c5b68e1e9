"""Batches after a stop are those of an uninterrupted run: any step, any data-parallel size, any number of workers."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_megatron.config.schema import CorpusConfig, DataConfig, RunConfig, TaskWeights, VocabularyConfig
from mars_megatron.data import blend
from mars_megatron.data.loader import flat_batches
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.data.packing import RESERVED_ROWS
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.synthetic_index import CODEBOOK_SIZE, TEXT_SIZE, write_synthetic

GLOBAL_BATCH = 4
TASKS = TaskWeights(t2i=0.4, i2t=0.2, sr=0.1, text=0.1, interleaved=0.2)


@pytest.fixture(autouse=True, scope="module")
def small_rounds():
    """A round of a single stream is one epoch, however few documents there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "MIN_ROUND_SAMPLES", 1)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    mixed = write_synthetic(folder / "mixed", ["image", "pair", "text", "interleaved"] * 20, weights=True)
    images = write_synthetic(folder / "images", ["image"] * 70, seed=1)
    vocabulary = VocabularyConfig(text_size=TEXT_SIZE, codebook_size=CODEBOOK_SIZE)
    data = DataConfig(micro_batch_tokens=RESERVED_ROWS + 120, too_long="skip")
    base = RunConfig(vocabulary=vocabulary, data=data)
    base = replace(base, training=replace(base.training, global_batch_size=GLOBAL_BATCH))
    return {
        "epochs": replace(base, data=replace(data, path=images)),
        "blend": replace(base, data=replace(data, blend=(CorpusConfig(images, 0.4), CorpusConfig(mixed, 0.6, TASKS)))),
    }


def read(config: RunConfig, num: int, workers: int = 0, **arguments) -> list[bytes]:
    batches = open_micro_batches(config, Vocabulary.from_config(config))
    flat = flat_batches(batches, config, num_workers=workers, **arguments)
    return [values.tobytes() for values in islice(flat, num)]


def steps(config: RunConfig, num: int, start: int, dp_size: int, workers: int) -> list[bytes]:
    """The micro-batches of `num` steps in their global order, from those of every rank."""
    per_rank = GLOBAL_BATCH // dp_size
    ranks = [
        read(config, num * per_rank, workers, dp_rank=rank, dp_size=dp_size, start=start * GLOBAL_BATCH)
        for rank in range(dp_size)
    ]
    return [batch for together in zip(*ranks, strict=True) for batch in together]


@pytest.fixture(scope="module")
def uninterrupted(runs):
    """The first steps of every run, over several epochs."""
    found = {name: read(config, 20 * GLOBAL_BATCH) for name, config in runs.items()}
    rounds = open_micro_batches(runs["epochs"], Vocabulary.from_config(runs["epochs"])).rounds
    assert rounds.round(0).num_packs + rounds.round(1).num_packs < 18 * GLOBAL_BATCH, "no epoch boundary is crossed"
    return found


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["epochs", "blend"]), st.integers(0, 16), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_after_a_stop_at_any_step_under_any_data_parallel_size(runs, uninterrupted, name, stop, before, after):
    config, expected = runs[name], uninterrupted[name]
    assert steps(config, stop, 0, before, 0) == expected[: stop * GLOBAL_BATCH] or stop == 0
    assert steps(config, 3, stop, after, 0) == expected[stop * GLOBAL_BATCH : (stop + 3) * GLOBAL_BATCH]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(("name", "stop", "dp_size"), [("epochs", 4, 1), ("blend", 7, 2), ("blend", 12, 4)])
def test_with_workers(runs, uninterrupted, name, stop, dp_size, workers):
    expected = uninterrupted[name][stop * GLOBAL_BATCH : (stop + 5) * GLOBAL_BATCH]
    assert steps(runs[name], 5, stop, dp_size, workers) == expected


def test_the_seed_decides(runs, uninterrupted):
    config = runs["blend"]
    other = replace(config, data=replace(config.data, seed=5))
    assert not set(read(other, 20)) & set(uninterrupted["blend"][:20])


def test_a_fate_does_not_depend_on_the_others(runs):
    """Adding a corpus behind changes neither order nor captions nor dropout of the first one's documents."""
    config = runs["epochs"]
    alone = open_micro_batches(config, Vocabulary.from_config(config)).rounds.round(0).samples
    mixed = runs["blend"].data.blend[1]
    blended = replace(
        config,
        data=replace(config.data, path="", blend=(CorpusConfig(config.data.path, 1.0), replace(mixed, weight=0.5))),
    )
    both = open_micro_batches(blended, Vocabulary.from_config(blended)).rounds.round(0).samples
    epoch = {sample[0]: sample for sample in alone.tolist()}
    of_first = both[both["corpus"] == 0]
    seen: dict[int, tuple] = {}
    for sample in of_first.tolist():
        seen.setdefault(sample[0], sample)
    assert set(seen) == set(epoch)
    assert np.mean([seen[document] == epoch[document] for document in epoch]) > 0.5
