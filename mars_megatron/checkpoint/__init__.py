"""Distributed checkpoints of a run."""

from mars_megatron.checkpoint.compatible import read_config
from mars_megatron.checkpoint.folders import latest, resolve
from mars_megatron.checkpoint.save_load import Position, load, load_model, load_optimizer, save

__all__ = ["Position", "latest", "load", "load_model", "load_optimizer", "read_config", "resolve", "save"]
