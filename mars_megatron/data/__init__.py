"""Packed micro-batches from indices: order, blends, packing, loading."""
