"""Sampling: images from prompts, captions from images."""

from mars_megatron.sampling.load import LoadedModel, load_for_inference
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.sampling.to_documents import Document
from mars_megatron.sampling.to_images import generate_images, upscale
from mars_megatron.sampling.to_text import generate_captions, generate_text

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
