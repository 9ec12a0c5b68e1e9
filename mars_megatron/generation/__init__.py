"""Sampling: images from prompts, captions from images."""

from mars_megatron.generation.captions import generate_captions
from mars_megatron.generation.grid import image_grid
from mars_megatron.generation.images import generate_images
from mars_megatron.generation.load import LoadedModel, load_for_inference
from mars_megatron.generation.prompts import Prompt, read_prompts
from mars_megatron.generation.sampler import Sampler

__all__ = [
    "LoadedModel",
    "Prompt",
    "Sampler",
    "generate_captions",
    "generate_images",
    "image_grid",
    "load_for_inference",
    "read_prompts",
]
