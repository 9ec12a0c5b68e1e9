"""Sampling: images from prompts, captions from images."""

from mars_megatron.sampling.captions import generate_captions
from mars_megatron.sampling.documents import Document
from mars_megatron.sampling.images import generate_images
from mars_megatron.sampling.load import LoadedModel, load_for_inference
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.sampling.super_resolution import upscale
from mars_megatron.sampling.text import generate_text

__all__ = [
    "Document",
    "LoadedModel",
    "Sampler",
    "generate_captions",
    "generate_images",
    "generate_text",
    "load_for_inference",
    "upscale",
]
