"""Configurations with some settings changed, and what a run wrote of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig


def configured(base: RunConfig, **overrides: Any) -> RunConfig:
    """Overrides with __ for the dot."""
    return override(base, [f"--{name.replace('__', '.')}={value}" for name, value in overrides.items()])


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple]:
    """Everything in metrics.jsonl that does not depend on the clock."""
    return [
        tuple((name, value) for name, value in line.items() if name not in ("seconds_per_step", "tokens_per_second"))
        for line in lines(folder)
    ]
