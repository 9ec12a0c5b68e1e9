"""Text tokenizers of exported folders that no class of transformers reads as their files say."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

MODEL_FILE = "tokenizer.model"


class MarsSentencePieceTokenizer(PreTrainedTokenizer):
    """A SentencePiece model, as SentencePiece itself reads and writes it.

    Args:
        vocab_file: The .model file.
        kwargs: As for every tokenizer.

    Raises:
        ImportError: sentencepiece is missing.
    """

    vocab_files_names = {"vocab_file": MODEL_FILE}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ImportError(f"the text tokenizer needs sentencepiece: pip install sentencepiece ({error})") from error
        self.vocab_file = str(Path(vocab_file).absolute())  # the current folder may be another one when it is saved
        self._processor = SentencePieceProcessor(model_file=vocab_file)
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of pieces; added tokens lie behind them."""
        return self._processor.vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Ids of pieces and added tokens."""
        pieces = {self._processor.id_to_piece(number): number for number in range(self.vocab_size)}
        return pieces | self._added_tokens_encoder

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        # not the strings that SentencePiece gives: an unknown one may read like another piece
        return [self._processor.id_to_piece(number) for number in self._processor.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._processor.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._processor.id_to_piece(index) if index < self.vocab_size else ""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces."""
        return self._processor.decode(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, **kwargs: Any
    ) -> list[int]:
        """Nothing is put around texts."""
        return [*token_ids_0, *(token_ids_1 or [])]

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(number) for number in token_ids]
        if skip_special_tokens:
            ids = [number for number in ids if self._is_text(number) or not self._is_special(number)]
        texts = []
        for is_text, group in groupby(ids, self._is_text):
            run = list(group)
            texts.append(self._processor.decode(run) if is_text else "".join(self.convert_ids_to_tokens(run)))
        return "".join(texts)

    def _is_text(self, number: int) -> bool:
        return number < self.vocab_size and not self._processor.is_control(number)

    def _is_special(self, number: int) -> bool:
        token = self._added_tokens_decoder.get(number)
        return token is None or token.special  # control pieces and ids without a token

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Copy the model file."""
        target = Path(save_directory) / f"{f'{filename_prefix}-' if filename_prefix else ''}{MODEL_FILE}"
        if Path(self.vocab_file).resolve() != target.resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)


class MarsJsonTokenizer(PreTrainedTokenizerFast):
    """A tokenizer.json, whose tokens with a name (eos_token, ...) are special where it says so, and nowhere else.

    Other classes make them special, so that they are not found in texts any more.
    """

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        known = self.get_vocab()
        unknown = [token for token in new_tokens if str(token) not in known]
        return super()._add_tokens(unknown, special_tokens=special_tokens) if unknown else 0

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(number) for number in token_ids]
        if skip_special_tokens:
            named = set(self.all_special_ids)
            ids = [number for number in ids if number not in named]
        return super()._decode(ids, skip_special_tokens=skip_special_tokens, **kwargs)
