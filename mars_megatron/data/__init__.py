"""From indices to packed micro-batches."""
