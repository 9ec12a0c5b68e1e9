"""Conversion between checkpoints and Hugging Face folders: import, export, verify, inspect, split and merge."""
