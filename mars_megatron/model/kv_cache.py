"""Keys and values of the tokens already processed, for decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every local layer, at the position of their token within its sample.

    Samples may have different lengths: each writes behind its own tokens and attends to those only.

    Args:
        num_samples: Samples decoded together.
        max_length: Most tokens one sample can hold.
    """

    def __init__(self, num_samples: int, max_length: int) -> None:
        self.num_samples = num_samples
        self.max_length = max_length
        self.lengths = torch.zeros(num_samples, dtype=torch.int64)  # on the host
        self.is_empty = True
        # What a text-conditioned router remembers, by layer; see text_condition.py.
        self.text: dict[int, tuple[Tensor, Tensor]] = {}
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def advance(self, sample_lengths: Tensor) -> None:
        """Count the tokens of the forward pass that just ended. sample_lengths: int [num_samples], on the host."""
        self.lengths = self.lengths + sample_lengths
        self.is_empty = False
        assert int(self.lengths.max()) <= self.max_length, "the cache is too short for these samples"

    def rewind(self, sample: int, length: int) -> None:
        """Forget all tokens of a sample but its first `length`."""
        assert 0 <= length <= int(self.lengths[sample]), (length, self.lengths)
        self.lengths = self.lengths.clone()
        self.lengths[sample] = length

    def start_positions(self, device: torch.device) -> Tensor:
        """int64 [num_samples]: position of the first token of the coming forward pass."""
        return self.lengths.to(device)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values behind the old ones and return all.

        Args:
            layer: Number of the layer.
            keys: [samples, new tokens, groups, head_dim]. In the first pass right-padded, and padding is overwritten by
                later tokens; in later passes each sample has as many.
            values: The same shape.

        Returns:
            Keys and values [samples, max_length, groups, head_dim].
        """
        samples, new, groups, head_dim = keys.shape
        assert samples == self.num_samples, (samples, self.num_samples)
        if layer not in self._layers:
            shape = (samples, self.max_length, groups, head_dim)
            self._layers[layer] = (keys.new_zeros(shape), values.new_zeros(shape))
        all_keys, all_values = self._layers[layer]
        if self.is_empty:
            all_keys[:, :new], all_values[:, :new] = keys, values
        else:
            places = self.start_positions(keys.device)[:, None] + torch.arange(new, device=keys.device)
            index = places[:, :, None, None].expand(-1, -1, groups, head_dim)
            all_keys.scatter_(1, index, keys)
            all_values.scatter_(1, index, values)
        return all_keys, all_values
