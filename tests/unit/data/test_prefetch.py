"""Micro-batches on their way to the device: all of them, in order, no more than are asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from mars_megatron import platform
from mars_megatron.data.prefetch import Prefetcher
from mars_megatron.sequence.batch import collate, flatten
from mars_megatron.sequence.samples import T2I, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.plans import check_plan

VOCABULARY = Vocabulary(text_size=10, codebook_size=4)


@pytest.fixture(autouse=True)
def device():
    platform.initialize("cpu")


class Source:
    """Endless micro-batches that say how many were taken, and where."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.taken, self.fail_at, self.threads = 0, fail_at, set()

    def __iter__(self):
        return self

    def __next__(self) -> np.ndarray:
        if self.taken == self.fail_at:
            raise OSError("the disk is gone")
        self.threads.add(threading.current_thread())
        samples = [make_sample(T2I, np.array([5, 6]), np.array([3, 0]), VOCABULARY, 2)]
        self.taken += 1
        return flatten(collate(samples, VOCABULARY, index=self.taken - 1, task=T2I))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_all_in_order_and_not_more_ahead_than_asked_for(depth):
    source = Source()
    batches = Prefetcher(source, depth=depth)
    assert source.taken == 0
    for number in range(5):
        batch = next(batches)
        assert batch.index == number and batch.task == T2I
        check_plan(batch.plan)
    batches.close()
    assert source.taken == 5 + depth
    assert threading.main_thread() not in source.threads


@pytest.mark.parametrize("depth", [0, 2])
def test_a_number_is_kept_to(depth):
    source = Source()
    batches = Prefetcher(source, depth=depth, num=3)
    assert [batch.index for batch in batches] == [0, 1, 2]
    assert list(batches) == []
    batches.close()
    assert source.taken == 3


def test_an_error_of_the_reader_reaches_the_step():
    batches = Prefetcher(Source(fail_at=2), depth=2)
    assert [next(batches).index, next(batches).index] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_tensors_are_views_of_what_was_read():
    batch = next(Prefetcher(Source(), depth=1))
    tensors = (batch.input_ids, batch.targets, batch.plan.position_ids)
    bases = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert len(bases) == 1 and isinstance(batch.input_ids, torch.Tensor)
