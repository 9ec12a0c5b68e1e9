"""Canvases of two coloured handwritten digits in a spatial relation, and what can be said about them."""

from mars_megatron.indexing.compositional.build import BuildSettings, build
from mars_megatron.indexing.compositional.scenes import COLOURS, RELATIONS, Scene, Thing

__all__ = ["COLOURS", "RELATIONS", "BuildSettings", "Scene", "Thing", "build"]
