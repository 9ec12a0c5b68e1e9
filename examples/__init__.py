"""Examples on handwritten digits, and scripts. Start them from the root of the repository."""
