"""Sampling of images from prompts, captions from images, and documents of both."""

from mars_megatron.sampling.load import LoadedModel, load_for_inference
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.sampling.to_documents import Document
from mars_megatron.sampling.to_images import sample_images, upscale
from mars_megatron.sampling.to_text import sample_captions, sample_text

__all__ = [
    "Document",
    "LoadedModel",
    "Sampler",
    "load_for_inference",
    "sample_captions",
    "sample_images",
    "sample_text",
    "upscale",
]
