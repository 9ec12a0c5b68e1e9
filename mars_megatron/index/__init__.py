"""The index format (FORMAT.md): PREFIX.bin, .idx, .json and .weights.npy; writing, reading, merging. No torch."""
