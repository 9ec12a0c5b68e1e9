"""Samples for pictures of 8 x 8 pixels, and what they look like."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SIZE = (8, 8)
# Shares of white, [8, 8]: of the greys, of three channels, and of alpha.
GREY = np.arange(64).reshape(8, 8) / 63
RGB = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)
ALPHA = GREY[:, ::-1].T
ADOBE = ((0.60976, 0.31112, 0.01948), (0.20524, 0.62566, 0.06089), (0.14922, 0.06322, 0.74484))
P3 = ((0.51512, 0.24119, -0.00105), (0.29198, 0.69224, 0.04188), (0.15710, 0.06657, 0.78407))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03135, 0.00009, 0.82521))
SRGB_COLUMNS = ((0.43607, 0.22250, 0.01393), (0.38506, 0.71688, 0.09710), (0.14308, 0.06062, 0.71417))


@dataclass(frozen=True)
class Odd:
    """A picture.

    Args:
        data: The file.
        wanted: uint8 [8, 8, 3], or the reason for which it is left out.
        tolerance: Levels by which it may differ.
    """

    data: bytes
    wanted: np.ndarray | str
    tolerance: int = 1


def full(shares: np.ndarray, white: int) -> np.ndarray:
    """Shares as samples below `white`."""
    return np.rint(shares * white).astype(np.int64)


def seen(shares: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """What shares look like on white, uint8 [8, 8, 3]."""
    if shares.ndim == 2:
        shares = np.stack([shares] * 3, axis=-1)
    if alpha is not None:
        shares = shares * alpha[..., None] + 1 - alpha[..., None]
    return np.rint(shares * 255).astype(np.uint8)


def linear(shares: np.ndarray) -> np.ndarray:
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def from_space(shares: np.ndarray, columns: Any, gamma: float) -> np.ndarray:
    """Shares of an RGB space, its primaries under D50 as columns -> shares of sRGB."""
    matrix = np.linalg.inv(np.array(SRGB_COLUMNS).T) @ np.array(columns).T
    return encoded(shares**gamma @ matrix.T)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bits8(shares: np.ndarray) -> Image.Image:
    return Image.fromarray(full(shares, 255).astype(np.uint8))


def with_alpha(shares: np.ndarray, white: int, alpha: np.ndarray = ALPHA) -> np.ndarray:
    """Samples with alpha behind them, [8, 8, 2] or [8, 8, 4]."""
    return full(np.concatenate([np.atleast_3d(shares), alpha[..., None]], axis=-1), white)


def little(samples: np.ndarray, kind: str = "<u2") -> bytes:
    return samples.astype(kind).tobytes()
