"""The index format: PREFIX.bin, .idx, .json and .weights.npy; written, read, merged. FORMAT.md describes it. No torch."""
