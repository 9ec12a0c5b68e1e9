"""From logits to ids: random numbers, guidance, temperature, top-k, top-p, min-p, and the choice."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

GUIDANCE_SCHEDULES = ("constant", "linear", "cosine")

Key = tuple[int, ...]


def uniforms(keys: Sequence[Key], num_steps: int) -> Tensor:
    """The random numbers of some samples: float64 [len(keys), num_steps] in [0, 1), on the CPU.

    Those of a sample depend on its key alone (integers, none negative), so neither the batch it is decoded in nor the
    parallel layout changes it.
    """
    numbers = [np.random.default_rng(key).random(num_steps) for key in keys]
    return torch.from_numpy(np.stack(numbers))


def image_key(seed: int, prompt: Sequence[int], number: int) -> Key:
    """Key of an image of `uniforms`: its seed, its number among the images of its prompt, and the prompt's text ids.

    Images of other prompts have other random numbers under the same seed and number.
    """
    ids = np.asarray(prompt, dtype="<i8").tobytes()
    return seed, number, int.from_bytes(hashlib.blake2b(ids, digest_size=8).digest(), "little")


def image_numbers(prompts: Sequence[Sequence[Any]]) -> list[int]:
    """Number of each image where none is given: how often its prompt (text or ids) stands in front of it."""
    seen: Counter[tuple[Any, ...]] = Counter()
    numbers = []
    for prompt in map(tuple, prompts):
        numbers.append(seen[prompt])
        seen[prompt] += 1
    return numbers


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) on logits of the same shape."""
    return unconditional + scale * (conditional - unconditional)


def guidance_at(step: int, num_steps: int, guidance: float, schedule: str) -> float:
    """Guidance scale of one step of an image: 1 + (guidance - 1) * ramp(step / (num_steps - 1)).

    Args:
        step: From 0; codes sampled together are of the same step.
        num_steps: Steps of the image.
        guidance: The scale of the last step.
        schedule: ramp(x) is 1 for constant, x for linear, (1 - cos(pi * x)) / 2 for cosine.
    """
    if schedule == "constant" or step == num_steps - 1:
        return guidance
    progress = step / (num_steps - 1)
    ramp = progress if schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return 1 + (guidance - 1) * ramp


def sample_ids(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Choose one column of each row.

    Temperature comes first, then top-k, top-p (of the probabilities that top-k leaves) and min-p.

    Args:
        logits: [n, columns]: those of the ids that may occur.
        uniform: float64 [n] in [0, 1), on the device of the logits.
        temperature: Softmax temperature; 0 takes the most probable.
        top_k: Keep the k most probable; 0 keeps all.
        top_p: Keep the smallest set with this total probability; 1 keeps all.
        min_p: Keep those with at least this share of the largest probability; 0 keeps all.

    Returns:
        int64 [n].
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = _truncated((logits.double() / temperature).softmax(dim=-1), top_k, top_p, min_p)
    # The inverse of the cumulative distribution: the first column at which it exceeds uniform * total, which rounding
    # must not make the total itself.
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    wanted = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(1)


def _truncated(probabilities: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Set to zero what top-k, top-p and min-p leave out; not normalised. The most probable column stays."""
    if min_p:
        kept = _truncated(probabilities, top_k, top_p, 0)
        return kept.where(kept >= min_p * kept.amax(dim=-1, keepdim=True), 0)
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
