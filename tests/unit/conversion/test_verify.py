"""Two checkpoints are the same, or what differs is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mars_megatron.checkpoint.tensors import TensorInfo
from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.checkpoints import Format, Opened
from mars_megatron.conversion.verify import compare, sequences
from mars_megatron.files.weights import check_numbers

TEXT, VISUAL = "lm_head.text.weight", "lm_head.visual.weight"


class Parts:
    """Parts in memory."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values
        self.tensors = {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in values.items()}

    def read(self, name: str) -> Tensor:
        check_numbers(self.values[name], name, "memory")  # as every source does
        return self.values[name]


def opened(values: dict[str, Tensor], kind: Format = "checkpoint") -> Opened:
    return Opened(Path("somewhere"), kind, RunConfig(), 0, Parts(values))


@pytest.fixture
def values() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {TEXT: torch.randn(5, 3), VISUAL: torch.randn(4, 3), "model.norm.weight": torch.randn(3)}


def changed(values: dict[str, Tensor], name: str, value: Tensor) -> dict[str, Tensor]:
    return {**values, name: value}


def test_equal(values: dict[str, Tensor]) -> None:
    copies = {name: value.clone() for name, value in values.items()}
    result = compare(opened(values), opened(copies))
    assert (result.num_compared, result.num_equal, result.problems, result.max_abs_difference) == (3, 3, [], 0.0)


def test_missing_and_extra(values: dict[str, Tensor]) -> None:
    less = {name: value for name, value in values.items() if name != TEXT}
    assert compare(opened(values), opened(less)).problems == [f"missing  {TEXT}"]
    assert compare(opened(less), opened(values)).problems == [f"extra    {TEXT}"]


def test_shape_and_dtype(values: dict[str, Tensor]) -> None:
    (problem,) = compare(opened(values), opened(changed(values, TEXT, torch.zeros(6, 3)))).problems
    assert problem == f"shape    {TEXT}: [5, 3] float32 against [6, 3] float32"
    rounded = opened(changed(values, TEXT, values[TEXT].bfloat16()))
    (problem,) = compare(opened(values), rounded).problems
    assert problem.startswith(f"dtype    {TEXT}: [5, 3] float32 against [5, 3] bfloat16, max abs difference 0.0")
    (problem,) = compare(opened(values), rounded, ignore_dtype=True).problems
    assert problem.startswith(f"values   {TEXT}")
    assert not compare(opened(values), rounded, ignore_dtype=True, tolerance=0.02).problems


def test_values_and_tolerance(values: dict[str, Tensor]) -> None:
    other = values[TEXT].clone()
    other[4, 2] += 0.25
    result = compare(opened(values), opened(changed(values, TEXT, other)))
    assert result.problems == [f"values   {TEXT}: max abs difference 0.25"]
    assert result.max_abs_difference == pytest.approx(0.25) and result.num_equal == 2
    assert not compare(opened(values), opened(changed(values, TEXT, other)), tolerance=0.26).problems


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_a_problem_of_its_side(values: dict[str, Tensor], value: float) -> None:
    """Whatever the other side has there: the same, or another value."""
    tensor = values[TEXT].clone()
    tensor[4, 1] = value
    broken = changed(values, TEXT, tensor)
    for first, second, sides in ((broken, values, 1), (values, broken, 2), (broken, broken, 3)):
        result = compare(opened(first), opened(second), tolerance=1e9, ignore_dtype=True)
        expected = [f"numbers  {TEXT} of the {side}" for bit, side in ((1, "first"), (2, "second")) if sides & bit]
        assert [problem.split(":")[0] for problem in result.problems] == expected
        assert all(f"1 of 15 values that are no numbers, the first is {value} at [4, 1]" in p for p in result.problems)
        assert (result.num_compared, result.num_equal) == (3, 2)
        assert result.max_abs_difference != result.max_abs_difference


def test_what_a_format_cannot_have_is_not_missed(values: dict[str, Tensor]) -> None:
    text = {name: value for name, value in values.items() if name != VISUAL}
    result = compare(opened(text, "language_model"), opened(values))
    assert result.num_compared == 2 and not result.problems
    result = compare(opened(values), opened({VISUAL: values[VISUAL]}, "visual"))
    assert result.num_compared == 1 and not result.problems
    del text[TEXT]
    assert compare(opened(text, "language_model"), opened(values)).problems == [f"extra    {TEXT}"]


def test_large_tensors_are_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mars_megatron.conversion.verify._AT_ONCE", 7)
    first, second = torch.zeros(10, 3), torch.zeros(10, 3)
    second[9, 2], second[0, 0] = 0.5, -0.25
    assert compare(opened({TEXT: first}), opened({TEXT: second})).max_abs_difference == 0.5


def test_sequences_fit_both_models() -> None:
    run = opened({})
    samples = sequences((run, run))
    assert set(samples) == {"text", "text-to-image", "captioning"}
    assert len(samples["text-to-image"]) == 32 + 16 + 2 and samples == sequences((run, run))
    assert sequences((run, run), seed=1) != samples
    small = replace(run.config, vocabulary=replace(run.config.vocabulary, text_size=3))
    model = Opened(Path("somewhere"), "language_model", small, 0, Parts({}))
    assert set(sequences((run, model))) == {"text"} and max(sequences((run, model))["text"]) < 3
