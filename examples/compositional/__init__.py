"""Canvases of two coloured handwritten digits in a spatial relation: data, recipes and suite of compositional.sh."""
