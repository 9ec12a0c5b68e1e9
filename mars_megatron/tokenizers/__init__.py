"""Text and image tokenizers, and the vocabulary that joins their ids."""

from mars_megatron.tokenizers.image import ImageTokenizer, load_image_tokenizer
from mars_megatron.tokenizers.text import TextTokenizer, load_text_tokenizer
from mars_megatron.tokenizers.vocabulary import SPECIALS, Vocabulary

__all__ = [
    "SPECIALS",
    "ImageTokenizer",
    "TextTokenizer",
    "Vocabulary",
    "load_image_tokenizer",
    "load_text_tokenizer",
]
