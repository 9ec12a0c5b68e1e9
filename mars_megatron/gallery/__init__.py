"""Folders of results: what is asked for, sampled, written, and made again."""
