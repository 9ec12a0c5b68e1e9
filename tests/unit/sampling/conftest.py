"""A tiny random model on one rank."""

from __future__ import annotations

import pytest

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig, ModelConfig, RunConfig, VocabularyConfig
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sequence.vocabulary import Vocabulary

CONFIG = RunConfig(
    # Large weights: with small ones every distribution would be flat, and all answers alike.
    model=ModelConfig(
        num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, init_std=0.5
    ),
    vocabulary=VocabularyConfig(text_size=29, codebook_size=16),
    generation=GenerationConfig(max_caption_tokens=12),
)
NUM_CODES = 9
PROMPTS = [[3, 4, 5], [7], [], [1, 2, 3, 4, 5, 6, 7], [28, 27]]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_config(CONFIG)


@pytest.fixture(scope="session")
def model() -> MARSModel:
    platform.initialize("auto")
    groups = initialize_parallel(CONFIG.parallel, 1)
    (model,) = build_model(CONFIG, groups)
    return model
