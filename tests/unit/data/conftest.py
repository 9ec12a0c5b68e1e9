"""The small index of tests/support/small_index.py."""

from tests.support.small_index import folder, image_model, index, lines, one_thread, text_model

__all__ = ["folder", "image_model", "index", "lines", "one_thread", "text_model"]
