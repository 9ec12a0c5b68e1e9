"""Decoding of image files to 8-bit sRGB pixels, the same for indices and exported models. No torch."""
