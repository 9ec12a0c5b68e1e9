"""Contests are fair and reports are whole."""

from __future__ import annotations

import gc
import json
import time
from types import SimpleNamespace

import pytest
from benchmarks import timing

from mars_megatron import platform


@pytest.fixture(scope="module", autouse=True)
def _on_this_platform() -> None:
    platform.initialize("auto")


def test_rounds_alternate_and_medians_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    order: list[str] = []
    lasting = {"ours": iter([100.0, 1.0, 9.0, 2.0]), "other": iter([100.0, 5.0, 4.0, 60.0])}

    def call(name: str) -> None:
        assert not gc.isenabled(), "a collection must not fall into a timed call"
        order.append(name)
        clock.now += next(lasting[name])

    seconds = timing.contest({name: lambda name=name: call(name) for name in lasting}, 3, "", progress=False)
    assert gc.isenabled() and gc.get_freeze_count() == 0
    # The round that warms up counts for nothing; then 1, 9, 2 and 5, 4, 60.
    assert seconds == {"ours": 2.0, "other": 5.0}
    assert [order[start : start + 2] for start in range(0, 8, 2)].count(["ours", "other"]) == 2
    assert timing.ratios_to_ours(seconds) == {"other": 2.5}


def test_results_are_given_back_before_the_next_call() -> None:
    alive: list[int] = []

    class Output:
        def __init__(self) -> None:
            alive.append(1)
            assert len(alive) == 1, "an output of an earlier call still lives"

        def __del__(self) -> None:
            alive.pop()

    timing.contest({"ours": Output, "other": Output}, 2, "", progress=False)


def test_real_time() -> None:
    began = time.perf_counter()
    seconds = timing.contest({"ours": lambda: time.sleep(0.01), "other": lambda: time.sleep(0.05)}, 3, "", False)
    elapsed = time.perf_counter() - began
    assert 0.01 <= seconds["ours"] <= elapsed and 0.05 <= seconds["other"] <= elapsed


def test_table() -> None:
    table = timing.as_table("title", {"ours": 0.002, "longer_name": 0.003})
    assert table.splitlines()[0] == "title"
    assert table.splitlines()[2].split() == ["ours", "2.00"]
    assert table.splitlines()[3].split() == ["longer_name", "3.00", "1.50"]


def test_report_replaces_the_old_one_at_once(tmp_path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    timing.write_report(path, {"copy": 1.5}, {"bf16": {"ours": 0.1}})
    report = json.loads(path.read_text())
    assert set(report) == {"ratios", "seconds", "machine"} and report["ratios"] == {"copy": 1.5}
    assert report["machine"]["cores"] >= 1 and report["machine"]["processor"]
    assert list(tmp_path.iterdir()) == [path]
