"""The index format (FORMAT.md): PREFIX.bin, .idx, .json and .weights.npy; written, read, merged. No torch."""
