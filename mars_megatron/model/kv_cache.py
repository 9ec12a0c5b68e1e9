"""Keys and values of the tokens already processed, for decoding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Places(NamedTuple):
    """Where the tokens of a forward pass lie, the same in every layer.

    Attributes:
        end: Tokens of the longest sample, with the new ones.
        first: Position of the first new token, if it is the same in all samples.
        positions: int64 [samples, new].
        mask: [samples, 1, new, end], to be added to the scores; None in the first pass, which is causal, and where
            every new token may look at all there are.
    """

    end: int
    first: int | None
    positions: Tensor
    mask: Tensor | None


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
        self._layers: dict[int, Tensor] = {}
        self._places: Places | None = None

    def advance(self, sample_lengths: Tensor) -> None:
        """Count the tokens of the forward pass that just ended. sample_lengths: int [num_samples], on the host."""
        self.lengths = self.lengths + sample_lengths
        self.is_empty, self._places = False, None
        assert int(self.lengths.max()) <= self.max_length, "the cache is too short for these samples"

    def rewind(self, sample: int, length: int) -> None:
        """Forget all tokens of a sample but its first `length`; what a router remembers of its text stays."""
        assert 0 <= length <= int(self.lengths[sample]), (length, self.lengths)
        self.lengths = self.lengths.clone()
        self.lengths[sample] = length
        self._places = None

    def start_positions(self, device: torch.device) -> Tensor:
        """int64 [num_samples]: position of the first token of the coming forward pass."""
        return self.lengths.to(device)

    def places(self, new: int, like: Tensor) -> Places:
        """Where the tokens of the coming forward pass lie, if each sample gets `new` of them.

        Args:
            new: Tokens of each sample.
            like: Gives device and dtype of the mask.
        """
        if self._places is None:
            starts, device = self.lengths.tolist(), like.device
            end, alike = max(starts) + new, min(starts) == max(starts)
            assert end <= self.max_length, "the cache is too short for these samples"
            positions = self.start_positions(device)[:, None] + torch.arange(new, device=device)
            mask = None
            if not self.is_empty and (new > 1 or not alike):
                later = torch.arange(end, device=device) > positions[..., None]
                mask = like.new_zeros(()).masked_fill(later, float("-inf"))[:, None]
            self._places = Places(end, starts[0] if alike else None, positions, mask)
        assert self._places.positions.shape[1] == new, "all layers of a forward pass must be given as many tokens"
        return self._places

    def write(self, layer: int, new: Tensor) -> Tensor:
        """Write the new tokens' keys and values behind the old ones and return all.

        Args:
            layer: Number of the layer.
            new: [samples, new tokens, groups, 2, head_dim], keys first. In the first pass right-padded, and padding is
                overwritten by later tokens; in later passes each sample has as many.

        Returns:
            [samples, groups, 2, longest, head_dim]: a view, up to the longest sample's last token.
        """
        samples, tokens, groups, _, head_dim = new.shape
        assert samples == self.num_samples, (samples, self.num_samples)
        if layer not in self._layers:
            self._layers[layer] = new.new_zeros((samples, groups, 2, self.max_length, head_dim))
        everything = self._layers[layer]
        places = self.places(tokens, new)
        if places.first is not None:
            everything[:, :, :, places.first : places.end] = new.permute(0, 2, 3, 1, 4)
        else:
            rows = torch.arange(samples, device=new.device)[:, None]
            everything[rows, :, :, places.positions] = new
        return everything[:, :, :, : places.end]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`write` of keys and values by themselves, [samples, new tokens, groups, head_dim].

        Returns:
            Keys and values [samples, longest, groups, head_dim].
        """
        everything = self.write(layer, torch.stack((keys, values), dim=3))
        all_keys, all_values = everything.transpose(1, 3).unbind(2)
        return all_keys, all_values
