"""A process of one rank, a tiny corpus, and signal handlers put back."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mars_megatron.config.schema import (
    DataConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    VocabularyConfig,
)
from tests.support import tiny
from tests.support.corpus import CODEBOOK_SIZE, TEXT_SIZE, write_corpus

BASE = RunConfig(
    model=ModelConfig(
        num_layers=2, hidden_size=16, ffn_hidden_size=32, num_attention_heads=2, num_query_groups=1, init_std=0.1
    ),
    vocabulary=VocabularyConfig(text_size=TEXT_SIZE, codebook_size=CODEBOOK_SIZE),
    data=DataConfig(micro_batch_tokens=160, validation_fraction=0.1),
    optimizer=OptimizerConfig(lr=0.01, warmup_ratio=0.1),
    training=TrainingConfig(steps=6, global_batch_size=2, eval_batches=2),
    logging=LoggingConfig(interval=1, progress=False, tensorboard=False),
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of six steps that writes nothing."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "train", num_images=60, num_texts=20)
    return dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, path=corpus))


@pytest.fixture
def one_rank() -> None:
    """Process groups of one rank."""
    tiny.one_rank()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A run replaces the signal handlers of its process."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
