"""Distributed checkpoints of a run."""

from mars_megatron.checkpoint.folders import latest, resolve
from mars_megatron.checkpoint.store import Position, load, load_model, read_config, save

__all__ = ["Position", "latest", "load", "load_model", "read_config", "resolve", "save"]
