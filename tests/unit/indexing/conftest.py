"""The small index of tests/support/small_index.py, and its tokenizers loaded."""

import pytest

from tests.support.small_index import folder, image_model, index, lines, one_thread, text_model

__all__ = ["folder", "image_model", "index", "lines", "one_thread", "text_model"]


@pytest.fixture(scope="session")
def tokenizers(text_model, image_model):
    """(text, image)"""
    from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer

    return load_text_tokenizer(text_model), load_image_tokenizer(image_model)
