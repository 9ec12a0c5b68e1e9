"""The cache puts every token behind those of its own sample."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.model import KVCache

LAYER, GROUPS, HEAD_DIM = 3, 2, 4


def tokens(num_samples: int, num_new: int, value: float) -> torch.Tensor:
    """[samples, new, groups, head_dim]; sample s, token t holds value + 10 s + t."""
    numbers = value + 10 * torch.arange(num_samples)[:, None] + torch.arange(num_new)
    return numbers[..., None, None].expand(-1, -1, GROUPS, HEAD_DIM).float()


def test_ragged_samples_grow_at_their_own_ends() -> None:
    cache = KVCache(num_samples=2, max_length=5)
    assert cache.is_empty and cache.start_positions(torch.device("cpu")).tolist() == [0, 0]
    # Lengths 1 and 3, padded to 3: the padding of sample 0 is written, and overwritten later.
    cache.update(LAYER, tokens(2, 3, 100), tokens(2, 3, 200))
    cache.advance(torch.tensor([1, 3]))
    assert not cache.is_empty and cache.start_positions(torch.device("cpu")).tolist() == [1, 3]
    for value in (300.0, 400.0):
        keys, values = cache.update(LAYER, tokens(2, 1, value), tokens(2, 1, value + 50))
        cache.advance(torch.tensor([1, 1]))
    assert keys.shape == values.shape == (2, 5, GROUPS, HEAD_DIM)
    assert keys[0, :3, 0, 0].tolist() == [100, 300, 400]
    assert keys[1, :5, 1, 3].tolist() == [110, 111, 112, 310, 410]
    assert values[1, :5, 0, 0].tolist() == [210, 211, 212, 360, 460]
    assert (keys == keys[..., :1, :1]).all()


def test_layers_are_apart() -> None:
    cache = KVCache(num_samples=1, max_length=2)
    first, _ = cache.update(1, tokens(1, 2, 1), tokens(1, 2, 1))
    second, _ = cache.update(2, tokens(1, 2, 7), tokens(1, 2, 7))
    assert first[0, :, 0, 0].tolist() == [1, 2] and second[0, :, 0, 0].tolist() == [7, 8]


def test_what_does_not_fit_is_refused() -> None:
    cache = KVCache(num_samples=2, max_length=3)
    with pytest.raises(AssertionError):
        cache.update(LAYER, tokens(1, 2, 0), tokens(1, 2, 0))
    cache.update(LAYER, tokens(2, 3, 0), tokens(2, 3, 0))
    with pytest.raises(AssertionError, match="as many tokens"):
        cache.update(LAYER + 1, tokens(2, 2, 0), tokens(2, 2, 0))
    cache.advance(torch.tensor([3, 2]))
    with pytest.raises(AssertionError, match="too short"):
        cache.update(LAYER, tokens(2, 1, 0), tokens(2, 1, 0))
    with pytest.raises(AssertionError, match="too short"):
        cache.advance(torch.tensor([1, 1]))
