"""From logits to ids: guidance, temperature, top-k, top-p, and the draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, indices: Sequence[int], num_steps: int) -> Tensor:
    """The random numbers of some samples: float64 [len(indices), num_steps] in [0, 1), on the CPU.

    Those of a sample depend on the seed and its index alone, so neither the batch it is decoded in nor the
    parallel layout changes it.
    """
    draws = [np.random.default_rng((seed, index)).random(num_steps) for index in indices]
    return torch.from_numpy(np.stack(draws))


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) on logits of the same shape."""
    return unconditional + scale * (conditional - unconditional)


def draw(logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Choose one column of each row.

    Top-k is applied before top-p, whose probabilities are those of the k kept.

    Args:
        logits: [n, columns]: those of the ids that may occur.
        uniform: float64 [n] in [0, 1), on the device of the logits.
        temperature: Softmax temperature; 0 takes the most probable.
        top_k: Keep the k most probable; 0 keeps all.
        top_p: Keep the smallest set with this total probability; 1 keeps all.

    Returns:
        int64 [n].
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = _truncated((logits.double() / temperature).softmax(dim=-1), top_k, top_p)
    # The inverse of the cumulative distribution: the first column at which it exceeds the uniform number.
    cumulative = probabilities.cumsum(dim=-1)
    columns = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    # Rounding may put uniform * total at the total itself: the last column with any probability is meant.
    last = (probabilities > 0).long().cumsum(dim=-1).argmax(dim=-1)
    return torch.minimum(columns, last)


def _truncated(probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set to zero what top-k and top-p leave out; not normalised. At least the most probable column stays."""
    num_columns = probabilities.shape[-1]
    if (top_k == 0 or top_k >= num_columns) and top_p == 1:
        return probabilities
    ordered, columns = probabilities.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered = ordered.clone()
        ordered[:, top_k:] = 0
    before = ordered.cumsum(dim=-1) - ordered  # probability of all that is more probable
    kept = ordered.where(before < top_p * ordered.sum(dim=-1, keepdim=True), 0)
    return torch.zeros_like(probabilities).scatter(-1, columns, kept)
