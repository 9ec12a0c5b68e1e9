"""Scores for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from mars_megatron.evaluation.intervals import LEVEL, Estimate


def table(scores: Mapping[str, Estimate]) -> str:
    """One line for each score: its name, value, confidence interval and number of observations."""
    rows = [("score", "value", f"{LEVEL:.0%} interval", "n")]
    for name, score in scores.items():
        known = score.low is not None and score.high is not None
        interval = f"{_number(score.low)} .. {_number(score.high)}" if known else ""
        rows.append((name, _number(score.value), interval, str(score.count) if score.count else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:>{widths[2]}}  {count:>{widths[3]}}".rstrip()
        for name, value, interval, count in rows
    )


def _number(value: float | None) -> str:
    assert value is not None
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"
