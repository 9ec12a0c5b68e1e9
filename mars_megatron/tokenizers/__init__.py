"""Text and image tokenizers, and the vocabulary that joins their ids."""

from mars_megatron.tokenizers.vocabulary import SPECIALS, Vocabulary

__all__ = ["SPECIALS", "Vocabulary"]
