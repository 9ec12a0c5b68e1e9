"""The smallest run: seconds on one CPU core."""

from __future__ import annotations

from mars_megatron.config.schema import RunConfig


def tiny() -> RunConfig:
    """Four layers of width 128 on 16-pixel images: the schema's defaults. For tests and first steps."""
    return RunConfig()
