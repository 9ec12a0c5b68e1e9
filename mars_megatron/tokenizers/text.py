"""Text tokenizers behind one interface: SentencePiece model files and Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import sentencepiece

from mars_megatron.huggingface.foreign import refuse_foreign_tokenizer
from mars_megatron.tokenizers.fingerprint import text_fingerprint


class TextTokenizer(Protocol):
    """What the package needs of a text tokenizer. Ids are ints in [0, size)."""

    path: str
    fingerprint: str
    size: int
    eos_id: int
    bos_id: int | None
    unk_id: int | None  # what it makes of text that it cannot spell; None where there is no such text

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without begin or end tokens. What reads like a special token is text."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same of many texts, faster than one by one; on one thread where the library allows that."""

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; special tokens leave no trace."""


class SentencePieceTokenizer:
    """A SentencePiece .model file.

    Raises:
        ValueError: The file is no SentencePiece model, or it has no end-of-sentence id.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.fingerprint = text_fingerprint(path)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=self.path)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"text tokenizer {path} is not a SentencePiece model: {error}") from error
        self.size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise ValueError(f"text tokenizer {path} has no end-of-sentence id; train it with one")
        bos_id = self._processor.bos_id()
        self.bos_id = bos_id if bos_id >= 0 else None
        self.unk_id: int | None = self._processor.unk_id()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self._processor.encode(texts, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode(list(ids))


class HuggingFaceTokenizer:
    """A folder that transformers' AutoTokenizer reads; nothing is downloaded.

    Raises:
        ValueError: The folder holds no tokenizer, or it names no eos_token.
    """

    def __init__(self, path: str | Path) -> None:
        from transformers import AutoTokenizer  # slow to import, and SentencePiece users do not need it

        self.path = str(path)
        self.fingerprint = text_fingerprint(path)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"text tokenizer {path} cannot be read by AutoTokenizer: {error}") from error
        self.size = len(self._tokenizer)
        if self._tokenizer.eos_token_id is None:
            raise ValueError(f"text tokenizer {path} names no eos_token; set it in tokenizer_config.json")
        self.eos_id: int = self._tokenizer.eos_token_id
        self.bos_id: int | None = self._tokenizer.bos_token_id
        self.unk_id: int | None = self._tokenizer.unk_token_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if not texts:  # which transformers takes for an error
            return []
        # verbose: what is longer than the language model's context is no concern here
        encoded = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False,
            return_token_type_ids=False, verbose=False,
        )  # fmt: skip
        return encoded["input_ids"]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def load_text_tokenizer(path: str | Path) -> TextTokenizer:
    """Open a SentencePiece model file, or a Hugging Face tokenizer folder.

    Raises:
        ValueError: The path does not exist or is no tokenizer.
    """
    refuse_foreign_tokenizer(Path(path))
    if Path(path).is_dir():
        return HuggingFaceTokenizer(path)
    return SentencePieceTokenizer(path)
