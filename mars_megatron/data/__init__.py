"""From .bin/.idx indices to packed micro-batches."""

from mars_megatron.data.batch import Batch, Sample, collate
from mars_megatron.data.loader import MicroBatches, build_loader, open_micro_batches
from mars_megatron.data.store import Store

__all__ = ["Batch", "MicroBatches", "Sample", "Store", "build_loader", "collate", "open_micro_batches"]
