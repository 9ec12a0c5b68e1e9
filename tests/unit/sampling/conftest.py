"""A tiny random model on one rank."""

from __future__ import annotations

import pytest

from mars_megatron import platform
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import CONFIG


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_config(CONFIG)


@pytest.fixture(scope="session")
def model() -> MARSModel:
    platform.initialize("auto")
    groups = initialize_parallel(CONFIG.parallel, 1)
    (model,) = build_model(CONFIG, groups)
    return model
