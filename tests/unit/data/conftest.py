"""The small index of tests/small_index.py."""

from tests.small_index import folder, image_model, index, lines, one_thread, text_model

__all__ = ["folder", "image_model", "index", "lines", "one_thread", "text_model"]
