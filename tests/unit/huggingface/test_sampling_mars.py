"""Guidance, truncation and draws."""

from __future__ import annotations

from typing import Any

import torch

from mars_megatron.huggingface.sampling_mars import draw, guide, uniforms

# Probabilities 0.1, 0.4, 0.2, 0.3.
LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


def draws(num: int = 4000, **how: Any) -> torch.Tensor:
    """Share of each column among evenly spread uniform numbers."""
    uniform = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    columns = draw(LOGITS.expand(num, -1), uniform, **how)
    return torch.bincount(columns, minlength=4) / num


def check(expected: list[float], **how: Any) -> None:
    torch.testing.assert_close(draws(**how), torch.tensor(expected, dtype=torch.float32), atol=2e-3, rtol=0)


def test_draws_follow_the_probabilities() -> None:
    check([0.1, 0.4, 0.2, 0.3])


def test_temperature() -> None:
    squared = torch.tensor([0.1, 0.4, 0.2, 0.3]).square()
    check((squared / squared.sum()).tolist(), temperature=0.5)
    check([0, 1, 0, 0], temperature=0)


def test_top_k() -> None:
    check([0, 4 / 7, 0, 3 / 7], top_k=2)
    check([0, 1, 0, 0], top_k=1)
    check([0.1, 0.4, 0.2, 0.3], top_k=9)


def test_top_p_keeps_the_column_that_reaches_it() -> None:
    check([0, 4 / 7, 0, 3 / 7], top_p=0.5)
    check([0, 1, 0, 0], top_p=0.01)
    check([0, 4 / 7, 0, 3 / 7], top_k=3, top_p=0.7)  # 0.7 of the 0.9 that top-k leaves


def test_top_k_keeps_exactly_k_of_equal_columns() -> None:
    equal = torch.zeros(50, 6)
    columns = draw(equal, torch.linspace(0, 0.99, 50, dtype=torch.float64), top_k=2)
    assert columns.unique().tolist() == [0, 1]


def test_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, -1)
    below_one = torch.nextafter(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    columns = draw(logits, torch.stack((torch.zeros_like(below_one), below_one)))
    assert columns.tolist() == [1, 2]


def test_guidance() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.equal(guide(conditional, unconditional, 3.0), torch.tensor([2.0, 0.0]))


def test_uniforms_depend_on_seed_and_index_alone() -> None:
    every = uniforms(5, range(4), 7)
    assert torch.equal(uniforms(5, range(2, 4), 7), every[2:])
    assert len(uniforms(5, range(100), 7).unique()) == 700
    assert not torch.isin(uniforms(6, range(4), 7), every).any()
    assert 0 <= every.min() and every.max() < 1
