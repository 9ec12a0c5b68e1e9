"""Plans that are kept in files: found again, shared, and gone when they are old."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mars_megatron.config.schema import CheckpointConfig, DataConfig, RunConfig, TaskWeights, VocabularyConfig
from mars_megatron.data import MicroBatches, open_micro_batches, rounds
from mars_megatron.data.packing import RESERVED_ROWS
from mars_megatron.tokenizers import Vocabulary
from tests.synthetic_index import CODEBOOK_SIZE, TEXT_SIZE, write_synthetic


@pytest.fixture
def config(tmp_path):
    corpus = write_synthetic(tmp_path / "corpus", ["image"] * 60)
    data = DataConfig(path=corpus, micro_batch_tokens=RESERVED_ROWS + 100, cache_dir=str(tmp_path / "cache"))
    return RunConfig(vocabulary=VocabularyConfig(text_size=TEXT_SIZE, codebook_size=CODEBOOK_SIZE), data=data)


def opened(config: RunConfig) -> MicroBatches:
    return open_micro_batches(config, Vocabulary.from_config(config.vocabulary))


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
    packs = [batches.rounds.round(number).num_packs for number in range(6)]
    assert len(cached(config)) == 6 and cached(config, "samples.npy") == ["000004.samples.npy", "000005.samples.npy"]
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
    found = sorted(counts.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == [0, 0, 0, 1]
