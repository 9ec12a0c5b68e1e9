"""Guidance, truncation and draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_megatron.sampling.logits_to_ids import (
    GUIDANCE_SCHEDULES,
    guidance_at,
    guide,
    image_key,
    image_numbers,
    sample_ids,
    uniforms,
)

# Probabilities 0.1, 0.4, 0.2, 0.3.
LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


def draws(num: int = 4000, **how: Any) -> torch.Tensor:
    """Share of each column among evenly spread uniform numbers."""
    uniform = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    columns = sample_ids(LOGITS.expand(num, -1), uniform, **how)
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


def test_min_p_keeps_a_share_of_the_largest() -> None:
    check([0, 4 / 7, 0, 3 / 7], min_p=0.6)
    check([0, 4 / 9, 2 / 9, 3 / 9], min_p=0.49)
    check([0, 1, 0, 0], min_p=1.0)
    check([0, 1, 0, 0], top_k=3, top_p=0.5, min_p=0.8)


@given(
    st.lists(st.floats(-4, 4), min_size=1, max_size=12),
    st.floats(0, 0.999),
    st.floats(0.3, 3),
    st.integers(0, 13),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_what_is_drawn_passes_every_truncation(
    row: list[float], uniform: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    noise = torch.tensor([uniform], dtype=torch.float64)
    column = int(sample_ids(logits, noise, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    probabilities = (logits[0] / temperature).softmax(0)
    more = probabilities[probabilities > probabilities[column]]
    kept = probabilities.sort(descending=True).values[: top_k or None].sum()
    assert not top_k or len(more) < top_k
    assert top_p == 1 or more.sum() < top_p * kept + 1e-12
    assert probabilities[column] >= min_p * probabilities.max() - 1e-12


def test_top_k_keeps_exactly_k_of_equal_columns() -> None:
    equal = torch.zeros(50, 6)
    columns = sample_ids(equal, torch.linspace(0, 0.99, 50, dtype=torch.float64), top_k=2)
    assert columns.unique().tolist() == [0, 1]


def test_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, -1)
    below_one = torch.nextafter(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    columns = sample_ids(logits, torch.stack((torch.zeros_like(below_one), below_one)))
    assert columns.tolist() == [1, 2]


def test_guidance() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.equal(guide(conditional, unconditional, 3.0), torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("schedule", GUIDANCE_SCHEDULES)
def test_guidance_goes_from_1_to_the_full_scale(schedule: str) -> None:
    scales = [guidance_at(step, 9, 3.0, schedule) for step in range(9)]
    assert scales == sorted(scales) and scales[-1] == 3.0 == guidance_at(0, 1, 3.0, schedule)
    first, middle = (3.0, 3.0) if schedule == "constant" else (1.0, 2.0)
    assert scales[0] == first and scales[4] == pytest.approx(middle)
    quarter = {"constant": 3.0, "linear": 1.5, "cosine": 1 + 2 * (1 - 0.5**0.5) / 2}
    assert scales[2] == pytest.approx(quarter[schedule])


def test_uniforms_depend_on_the_key_alone() -> None:
    keys = [image_key(5, prompt, number) for prompt in ([], [1], [1, 2], [258]) for number in range(25)]
    every = uniforms(keys, 7)
    assert torch.equal(uniforms(keys[2:4], 7), every[2:4])
    assert len(every.unique()) == 700
    assert not torch.isin(uniforms([image_key(6, [1], 0), (*keys[0], 1)], 7), every).any()
    assert 0 <= every.min() and every.max() < 1


def test_images_of_a_prompt_are_numbered() -> None:
    assert image_numbers([[3], [4], [3], [], [3], []]) == [0, 0, 1, 0, 2, 1]
