"""Whether a text tokenizer is the one of an index, and whether a model's table has a row for each of its ids."""

from __future__ import annotations

from pathlib import Path

from mars_megatron.tokenizers.fingerprint import text_fingerprint
from mars_megatron.tokenizers.text import TextTokenizer, load_text_tokenizer


def is_same(path: str | Path, fingerprint: str, content: str) -> bool:
    """Whether a tokenizer gives the ids of the one with a fingerprint and, where it is known, a content.

    Raises:
        ValueError: The path does not exist, or the folder holds no tokenizer.
    """
    if text_fingerprint(path) == fingerprint:
        return True
    try:  # the same file in another folder
        return bool(content) and load_text_tokenizer(path).content == content
    except ValueError:  # what cannot be read did not make an index
        return False


def check_table(tokenizer: TextTokenizer, text_size: int, path: str | Path = "") -> None:
    """Refuse a tokenizer of whose ids a table of embeddings has no row, unless no text makes them.

    Args:
        tokenizer: The tokenizer.
        text_size: Rows of the table.
        path: Where it lies for the user, if that is elsewhere.

    Raises:
        ValueError: Texts, eos_token or bos_token make ids from `text_size` on; the message names the tokens.
    """
    if tokenizer.rows <= text_size:
        return
    beyond = tokenizer.tokens_from(text_size)
    named = ", ".join(f"{token!r} ({number})" for token, number in sorted(beyond.items(), key=lambda item: item[1])[:5])
    more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
    raise ValueError(
        f"text tokenizer {path or tokenizer.path}: texts, eos_token or bos_token make {tokenizer.rows} ids; accepted: "
        f"at most {text_size}, the rows of the text table (vocabulary.text_size). Beyond it lie {named}{more}. Give "
        f"the language model these rows (model.resize_token_embeddings({tokenizer.size}) and save_pretrained), or take "
        f"the tokens out of {tokenizer.file.name}"
    )
