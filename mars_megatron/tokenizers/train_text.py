"""Training a SentencePiece text tokenizer on a text file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece

from mars_megatron.files.writing import complete
from mars_megatron.tokenizers.text import SentencePieceTokenizer
from mars_megatron.tokenizers.training_text import TrainingText


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=3)


def train_text_tokenizer(
    text: str | Path,
    output: str | Path,
    *,
    vocab_size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    character_coverage: float = 1.0,
    symbols: Sequence[str] = (),
    at_most: bool = False,
    say: Callable[[str], None] = _warn,
) -> SentencePieceTokenizer:
    """Train a SentencePiece model and write it under its name only when it is complete.

    The ids are 0 unknown, 1 begin of sentence, 2 end of sentence, then the pieces.

    Args:
        text: UTF-8 file, one sentence per line, of any length.
        output: The .model file; its folder is made, a file there is replaced.
        vocab_size: Number of ids.
        model_type: How pieces are chosen: unigram language model, or byte-pair encoding.
        character_coverage: Share of the text's characters that get a piece; 0.9995 for languages of many
            characters where rare ones may become unknown.
        symbols: Strings that always are one piece of their own.
        at_most: Take fewer ids where the text does not give vocab_size of them, instead of raising.
        say: Is told of lines that are empty, cut or left out; see `TrainingText`. By default these are warnings.

    Returns:
        The tokenizer, opened from the file.

    Raises:
        ValueError: The file does not exist, is empty or not UTF-8 text, or a setting does not fit it.
    """
    output = Path(output)
    if not 0.9 <= character_coverage <= 1.0:
        raise ValueError(f"character coverage is {character_coverage}; it must lie in 0.9..1")
    if any("," in symbol or not symbol for symbol in symbols):
        raise ValueError(f"symbols are {list(symbols)}; none may be empty or hold a comma")
    found = TrainingText.read(text)
    for note in found.notes():
        say(f"{text}: {note}")
    # The file itself where it can be: the model then is what SentencePiece's own tools make of it, byte for byte.
    source = {"input": str(text)} if found.is_plain else {"sentence_iterator": found.sentences()}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            **source,
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=character_coverage,
            user_defined_symbols=",".join(symbols),
            hard_vocab_limit=not at_most,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:  # says which size would do
        raise ValueError(f"no tokenizer of {vocab_size} ids from {text}: {error}") from error
    with complete(output) as temporary:
        temporary.write_bytes(model.getvalue())
    return SentencePieceTokenizer(output)
