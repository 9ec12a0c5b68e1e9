"""Folders of results: what is asked for, drawn, written, and made again."""
