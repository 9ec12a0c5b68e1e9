"""From .bin/.idx indices to packed micro-batches."""

from mars_megatron.data.loader import build_loader, flat_batches
from mars_megatron.data.micro_batches import MicroBatches, open_micro_batches
from mars_megatron.data.store import Store

__all__ = [
    "MicroBatches",
    "Store",
    "build_loader",
    "flat_batches",
    "open_micro_batches",
]
