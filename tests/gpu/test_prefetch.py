"""Micro-batches on their way to a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mars_megatron import platform
from mars_megatron.data.prefetch import Prefetcher
from mars_megatron.sequence.batch import collate, flatten
from mars_megatron.sequence.samples import T2I, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

VOCABULARY = Vocabulary(text_size=1000, codebook_size=512)


def made(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    samples = [
        make_sample(T2I, rng.integers(0, 1000, rng.integers(10, 150)), rng.integers(0, 512, 256), VOCABULARY, 2)
        for _ in range(64)
    ]
    return flatten(collate(samples, VOCABULARY, index=number, task=T2I))


@pytest.mark.parametrize("depth", [0, 2])
def test_all_arrive_whole_while_the_gpu_is_busy(depth: int) -> None:
    platform.initialize("cuda")
    busy = torch.randn(4096, 4096, device="cuda")
    batches = Prefetcher((made(number) for number in range(100)), depth=depth, num=20)
    for number, batch in enumerate(batches):
        for _ in range(5):
            busy = busy @ busy / busy.norm()
        again = flatten(batch.to("cpu"))
        assert batch.input_ids.is_cuda and batch.index == number
        np.testing.assert_array_equal(again, made(number))
    batches.close()


def test_copies_overlap_with_the_step() -> None:
    """Taking a micro-batch does not wait for what the GPU is computing."""
    platform.initialize("cuda")
    batches = Prefetcher((made(number) for number in range(100)), depth=2, num=5)
    next(batches)
    busy = torch.randn(8192, 8192, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 100.0
    computed = torch.cuda.Event()
    computed.record()
    next(batches)
    assert not computed.query(), "the host waited for the GPU (or the GPU was done at once: make it compute more)"
    batches.close()
