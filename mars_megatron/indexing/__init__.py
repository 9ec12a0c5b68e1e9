"""From raw images and texts to an index: sources, workers, restart, inspection, validation."""
