"""The MARS model: SemVIE layers, embedding, head, initialisation."""

from mars_megatron.model.build import build_model, freeze
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.model.mars import MARSModel

__all__ = ["KVCache", "MARSModel", "build_model", "freeze"]
