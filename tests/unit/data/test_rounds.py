"""Plans that are kept in files: found again, shared, and gone when they are old."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mars_megatron.config.schema import (
    CheckpointConfig,
    CorpusConfig,
    DataConfig,
    RunConfig,
    TaskWeights,
    VocabularyConfig,
)
from mars_megatron.data import blend, rounds
from mars_megatron.data.micro_batches import MicroBatches, open_micro_batches
from mars_megatron.data.packing import RESERVED_ROWS
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.synthetic_index import CODEBOOK_SIZE, TEXT_SIZE, write_synthetic


@pytest.fixture(autouse=True, scope="module")
def small_rounds():
    """A round of a single stream is one epoch, however few documents there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "MIN_ROUND_SAMPLES", 1)
        yield


@pytest.fixture
def config(tmp_path):
    corpus = write_synthetic(tmp_path / "corpus", ["image"] * 60)
    data = DataConfig(path=corpus, micro_batch_tokens=RESERVED_ROWS + 100, cache_dir=str(tmp_path / "cache"))
    return RunConfig(vocabulary=VocabularyConfig(text_size=TEXT_SIZE, codebook_size=CODEBOOK_SIZE), data=data)


def opened(config: RunConfig) -> MicroBatches:
    return open_micro_batches(config, Vocabulary.from_config(config))


def with_data(config, **changes):
    return replace(config, data=replace(config.data, **changes))


def contents(batches: MicroBatches, num: int) -> list[list[tuple]]:
    return [batches.rounds.samples(index).tolist() for index in range(num)]


def cached(config: RunConfig, ending: str = "json") -> list[str]:
    return sorted(path.name for path in Path(config.data.cache_dir).rglob(f"*.{ending}"))


def test_cached_plans_are_those_of_memory(config, monkeypatch):
    without = contents(opened(with_data(config, cache_dir="")), 60)
    assert contents(opened(config), 60) == without
    last = opened(config).rounds.locate(59)[0]
    monkeypatch.setattr(rounds, "plan_round", None)  # whatever is needed is in the files
    assert opened(config).rounds.samples(59).tolist() == without[59] and last > 0


def test_old_plans_go_but_their_counts_stay(config, monkeypatch):
    batches = opened(config)
    packs = [batches.rounds.round(number).num_packs for number in range(5)]
    assert len(cached(config, "samples.npy")) == 5, "a slower run may still read them"
    left = Path(config.data.cache_dir).rglob("*.npy").__next__().with_name("000003.json.0123.tmp")
    left.write_bytes(b"left by a killed process")
    for path in Path(config.data.cache_dir).rglob("*.*"):
        os.utime(path, (0, 0))
    packs.append(batches.rounds.round(5).num_packs)
    assert cached(config, "samples.npy") == ["000004.samples.npy", "000005.samples.npy"]
    assert len(cached(config)) == 6 and not left.exists()
    planned = []
    plan_round = rounds.plan_round
    monkeypatch.setattr(rounds, "plan_round", lambda *arguments: planned.append(1) or plan_round(*arguments))
    resumed = opened(config)
    assert resumed.rounds.locate(sum(packs[:5]) + 1) == (5, 1)
    assert not planned, "a run that resumes in round 5 need not plan the rounds before it"
    assert resumed.rounds.samples(3).tolist() and planned == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 9},
        {"caption_dropout": 0.2},
        {"micro_batch_tokens": RESERVED_ROWS + 101},
        {"pack_by_task": False},
        {"tasks": TaskWeights(t2i=0.7, i2t=0.3)},
        {"validation_fraction": 0.3},
    ],
)
def test_whatever_decides_a_plan_makes_another_one(config, changes):
    opened(config).rounds.round(0)
    opened(with_data(config, **changes)).rounds.round(0)
    assert len(cached(config)) == 2
    opened(with_data(config, **changes)).rounds.round(0)
    assert len(cached(config)) == 2


def test_another_index_under_the_same_name_makes_another_plan(config):
    opened(config).rounds.round(0)
    Path(f"{config.data.path}.json").unlink()
    write_synthetic(config.data.path, ["image"] * 60, seed=7)
    opened(config).rounds.round(0)
    assert len(cached(config)) == 2


def test_plans_lie_in_the_folder_of_the_run(config, tmp_path):
    config = replace(with_data(config, cache_dir=""), checkpoint=CheckpointConfig(dir=str(tmp_path / "run")))
    opened(config).rounds.round(0)
    assert list((tmp_path / "run" / "data_cache").rglob("*.samples.npy"))


def test_telling_what_is_trained_plans_no_round_again(config, monkeypatch):
    batches = opened(with_data(config, cache_dir=""))
    batches.rounds.round(3)
    monkeypatch.setattr(rounds, "plan_round", None)
    assert "60 image documents" in batches.describe() and batches.rounds.round(3).num_packs


def test_an_interrupted_write_leaves_no_plan(config, monkeypatch):
    def interrupted(*_arguments, **_named):
        raise KeyboardInterrupt

    save = np.save
    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(config).rounds.round(0)
    assert not cached(config) and not cached(config, "tmp")
    monkeypatch.setattr(np, "save", save)
    assert opened(config).rounds.round(0).num_packs


@pytest.mark.parametrize("ending", ["json", "samples.npy", "offsets.npy"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x93NUMPY damaged", None])
def test_damaged_files_are_planned_again(config, ending, content):
    expected = opened(config).rounds.round(0).samples.tolist()
    (path,) = Path(config.data.cache_dir).rglob(f"*.{ending}")
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    assert opened(config).rounds.round(0).samples.tolist() == expected
    assert path.stat().st_size > 20, "and written again"


def test_a_lock_that_nobody_holds_any_more_is_no_end(config, monkeypatch):
    rounds_ = opened(config).rounds
    monkeypatch.setattr(rounds, "_LOCK_SECONDS", 0.1)
    folder = Path(config.data.cache_dir) / rounds_.fingerprint
    folder.mkdir(parents=True)
    with FileLock(str(folder / "lock")), pytest.warns(UserWarning, match="lock has been held for 0.1 s"):
        assert opened(config).rounds.round(0).num_packs


def test_too_long_samples_are_counted_and_told(config):
    config = with_data(config, micro_batch_tokens=RESERVED_ROWS + 25, too_long="skip")
    for _ in range(2):  # planned, and from the files
        batches = opened(config)
        first = batches.rounds.round(0)
        assert first.num_too_long > 0 and len(first.samples) + first.num_too_long == 59
        assert f"{first.num_too_long} of the next 59 samples are too long and left out" in batches.describe()


def test_weights_that_give_the_first_round_alike_have_another_order(config, tmp_path, monkeypatch):
    monkeypatch.setattr(blend, "MIN_ROUND_SAMPLES", 1 << 10)
    other = write_synthetic(tmp_path / "other", ["image"] * 60, seed=5)
    found = []
    for weight in (0.0002, 0.0009):
        corpora = (CorpusConfig(config.data.path, 1.0), CorpusConfig(other, weight))
        found.append(opened(with_data(config, path="", blend=corpora)).rounds)
    assert [[s.count for s in one.streams(0)] for one in found][0] == [s.count for s in found[1].streams(0)]
    assert found[0].fingerprint != found[1].fingerprint


def test_few_documents_make_rounds_of_several_epochs(config, monkeypatch):
    monkeypatch.setattr(blend, "MIN_ROUND_SAMPLES", 1 << 10)
    first, second = (opened(config).rounds.round(number).samples["document"] for number in range(2))
    assert len(first) == len(second) == 59 * 18
    assert set(np.bincount(first, minlength=60).tolist()) == {0, 18}, (
        "each as often as the others, but for the held-out"
    )


def _plan(config: RunConfig, barrier, counts) -> None:
    plan_round = rounds.plan_round
    planned = []
    rounds.plan_round = lambda *arguments: planned.append(1) or plan_round(*arguments)
    barrier.wait()
    opened(config).rounds.round(0)
    counts.put(len(planned))


def test_of_several_processes_one_plans(config):
    context = multiprocessing.get_context("fork")
    barrier, counts = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_plan, args=(config, barrier, counts)) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(counts.get() for _ in processes)
    for process in processes:
        process.join()
    assert found == [0, 0, 0, 1]
