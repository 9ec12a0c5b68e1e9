"""What a suite computed before an interruption is there after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mars_megatron.evaluation.context import Context
from mars_megatron.sampling import Sampler, load_for_inference
from tests.support.tiny_run import write_run


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler(load_for_inference(write_run(tmp_path_factory.mktemp("run")).checkpoint))


class Work:
    """Gives a value of each kind that JSON has, and fails when it is asked for one thing."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[list[int]] = []
        self.fails_at = fails_at

    def __call__(self, numbers: list[int]) -> list[dict[str, Any]]:
        if self.fails_at in numbers:
            raise KeyboardInterrupt
        self.asked.append(numbers)
        return [{"third": number / 3, "text": "三", "list": [float("inf"), None]} for number in numbers]


def test_computing_goes_on(sampler: Sampler, tmp_path: Path) -> None:
    said: list[str] = []

    def context(job: str = "job") -> Context:
        return Context(sampler, tmp_path, "model", job, said.append, progress=False)

    first, second, third = Work(fails_at=5), Work(), Work()
    with pytest.raises(KeyboardInterrupt):
        context().compute("things", 7, first, at_once=2)
    assert first.asked == [[0, 1], [2, 3]]
    found = context().compute("things", 7, second, at_once=2)
    assert second.asked == [[4, 5], [6]] and said == ["4 of 7 things are there already"]
    assert found == Work()(list(range(7)))  # to the last bit
    assert context().compute("things", 7, third, at_once=3) == found and third.asked == []
    # of other inputs, or something else of the same
    for other, what in ((context("other"), "things"), (context(), "other things")):
        work = Work()
        assert other.compute(what, 7, work) == found and work.asked == [list(range(7))]
    assert len(said) == 1
    context().forget()
    again = Work()
    assert context().compute("things", 7, again) == found and again.asked == [list(range(7))]
    assert context("other").compute("things", 7, Work(fails_at=0)) == found  # forgotten is what is of one job alone
