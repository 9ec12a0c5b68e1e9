"""Scores on canvases of two coloured digits in a spatial relation."""
