"""From .bin/.idx indices to packed micro-batches."""

from mars_megatron.data.batch import Batch, Sample, collate

__all__ = ["Batch", "Sample", "collate"]
