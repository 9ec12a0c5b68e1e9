"""Tiny models with every parameter random, and packed batches of every task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron import platform
from mars_megatron.config.parser import override
from mars_megatron.config.schema import ModelConfig, ParallelConfig, RunConfig, VocabularyConfig
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sequence.batch import Batch, Sample, collate
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary

EOS = 1
BASE = RunConfig(
    model=ModelConfig(
        num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, init_std=0.3
    ),
    # Neither table's size is a multiple of 8: both are padded.
    vocabulary=VocabularyConfig(text_size=29, codebook_size=13),
)
VOCABULARY = Vocabulary.from_config(BASE)


def tiny_config(overrides: dict[str, Any] | None = None) -> RunConfig:
    """`BASE` with dotted overrides."""
    return override(BASE, [f"--{name}={value}" for name, value in (overrides or {}).items()])


def one_rank() -> ProcessGroupCollection:
    """Process groups of one rank, made once: every gloo group has threads of its own, and none is ever given back."""
    platform.initialize("auto")
    if parallel_state.model_parallel_is_initialized():
        return ProcessGroupCollection.use_mpu_process_groups()
    return initialize_parallel(ParallelConfig(), 1)


def tiny_model(overrides: dict[str, Any] | None = None) -> MARSModel:
    """A model on one rank, initialised as a run's is."""
    groups = one_rank()
    (model,) = build_model(tiny_config(overrides), groups)
    return model


@torch.no_grad()
def randomize(model: MARSModel, seed: int = 0) -> MARSModel:
    """Give every parameter values of its own, table padding included; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) * 0.3
        parameter.copy_(values + 1 if "norm" in name else values)
    return model


def make_samples(tasks: list[int], seed: int = 0, vocabulary: Vocabulary = VOCABULARY) -> list[Sample]:
    """One sample of each task in the list, of random length and content."""
    rng = np.random.default_rng(seed)
    samples = []
    for task in tasks:
        text = rng.integers(2, vocabulary.text_size, rng.integers(2, 7))
        codes = rng.integers(0, vocabulary.codebook_size, 4)
        samples.append(make_sample(task, text, None if task == TEXT_ONLY else codes, vocabulary, EOS))
    return samples


def make_batch(tasks: list[int], seed: int = 0, row_multiple: int = 1) -> Batch:
    """The samples of `make_samples` in one micro-batch, on the device of this process."""
    platform.initialize("auto")
    return collate(make_samples(tasks, seed), VOCABULARY, row_multiple).to(platform.device())


MIXED = [T2I, I2T, TEXT_ONLY, I2T, T2I]
