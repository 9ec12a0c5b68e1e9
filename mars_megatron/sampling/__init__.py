"""Sampling: images from prompts, captions from images."""

from mars_megatron.generation.captions import generate_captions
from mars_megatron.generation.documents import Document
from mars_megatron.generation.grid import image_grid
from mars_megatron.generation.images import generate_images
from mars_megatron.generation.load import LoadedModel, load_for_inference
from mars_megatron.generation.prompts import Prompt, read_prompts
from mars_megatron.generation.sampler import Sampler
from mars_megatron.generation.super_resolution import upscale
from mars_megatron.generation.text import generate_text

__all__ = [
    "Document",
    "LoadedModel",
    "Prompt",
    "Sampler",
    "generate_captions",
    "generate_images",
    "generate_text",
    "image_grid",
    "load_for_inference",
    "read_prompts",
    "upscale",
]
