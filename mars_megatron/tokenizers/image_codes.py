"""Between pixels and the codes of a diffusers VQModel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1], any shape."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1] (values outside are clipped) -> uint8 [0, 255], any shape."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def encode_codes(model: Any, images: Tensor) -> Tensor:
    """Float images [N, 3, H, W] in [-1, 1] -> codes int64 [N, h, w], by the VQModel's own quantiser."""
    latents = model.encode(images).latents  # [N, dim, h, w]
    indices = model.quantize(latents)[2][2]
    return indices.reshape(latents.shape[0], latents.shape[2], latents.shape[3])


def decode_codes(model: Any, codes: Tensor) -> Tensor:
    """Codes int64 [N, h, w] -> float images [N, 3, H, W], not clipped, by a VQModel."""
    num, height, width = codes.shape
    shape = (num, height, width, model.quantize.embedding.embedding_dim)
    latents = model.quantize.get_codebook_entry(codes.reshape(-1), shape)  # [N, dim, h, w]
    # a "spatial" norm conditions the decoder on the codebook entries, as VQModel.decode does
    condition = latents if model.config.norm_type == "spatial" else None
    return model.decoder(model.post_quant_conv(latents), condition)
