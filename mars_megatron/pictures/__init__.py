"""From any picture file to 8-bit sRGB pixels: one rule for indices and for exported models. No torch."""
