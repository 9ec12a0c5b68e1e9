"""The contestants of the sampling benchmark draw the same."""

from __future__ import annotations

import pytest
import torch
from benchmarks.sampling import Contest, SamplingOptions


@pytest.fixture(scope="module")
def contest() -> Contest:
    return Contest(SamplingOptions(layers=2, hidden=32, ffn=48, heads=4, grid=3, prompt_tokens=3))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_greedy_codes_are_equal(contest: Contest, guidance: float) -> None:
    prompts = contest.prompts(5)
    ours = contest.ours(prompts, guidance, 0.0)
    assert ours.shape == (5, 9) and len({tuple(codes) for codes in ours.tolist()}) > 1
    assert torch.equal(ours, contest.exported_images(prompts, guidance, 0.0))
    assert torch.equal(ours, contest.generate(prompts, guidance, 0.0))
