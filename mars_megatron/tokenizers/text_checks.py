"""Checks that a text tokenizer gives the ids of an index or a checkpoint, and that a table has rows for them all.

Indices and checkpoints of a former version, which read a tokenizer folder by a class of transformers, do not say how it
was read: `TextTokenizerInfo.content` is empty, and the checkpoint has no record of its tokenizers.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

from mars_megatron.tokenizers.text import JsonTokenizer, SentencePieceTokenizer, TextTokenizer, load_text_tokenizer
from mars_megatron.tokenizers.tokenizer_files import (
    TOKENIZER_JSON,
    deciding_file,
    read_table,
    special_names,
    text_fingerprint,
)

_RECORD = "tokenizers.json"  # of a checkpoint's tokenizers
# What classes and files have been seen to differ in: spaces, digits, case, normal forms, line breaks, whole words.
_PROBES = (
    "a red square, with 12345 blue circles.",
    " leading and trailing ",
    "two  spaces   three\ttab\n\nlines\r\n",
    "DON'T don't I'LL Naïve café cafe\u0301 Straße",
    "ＦＵＬＬ　ｗｉｄｔｈ １２３ ①② ﬁ ㍿ ｶﾞ",
    "一个红色方块，两个蓝色圆圈。赤い四角 빨간 사각형",
    "красный квадрат مربع أحمر लाल वर्ग สี่เหลี่ยม",
    "😀 👨‍👩‍👧 ☃ 𝔘 \u200b\u00a0x",
    "<s> </s> <unk> <|endoftext|> <|im_start|>user <|im_end|> <think> ▁x",
    "x=1;y_2+=3.50%  # comment\n    return {a: [b]}",
)


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


def where_made(said: str, fingerprint: str, now: str) -> str:
    """Where the tokenizer of an index lies as the index found it, with what lay beside it and decided too; or `now`.

    Args:
        said: Where it lay.
        fingerprint: Of the tokenizer.
        now: Where it lies now.
    """
    try:
        return said if said and Path(said).is_dir() and text_fingerprint(said) == fingerprint else now
    except ValueError:  # something else lies there
        return now


@lru_cache(maxsize=8)
def first_difference(path: str) -> str | None:
    """A text of which a class of transformers makes other ids than the file of a tokenizer folder; None: there is none.

    Raises:
        ValueError: The path does not exist, or cannot be read in one of both ways.
    """
    folder = Path(path)
    if not folder.is_dir():  # a SentencePiece model was always read as it is
        return None
    try:
        file = deciding_file(folder)
    except ValueError as error:  # then the class is all there is
        warnings.warn(f"whether an index has the ids of its text tokenizer cannot be told: {error}", stacklevel=2)
        return None
    tokenizer = load_text_tokenizer(path)
    if not isinstance(tokenizer, (JsonTokenizer, SentencePieceTokenizer)):  # no class of transformers ever read it
        return None
    from transformers import AutoTokenizer  # slow

    try:
        former = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each class has its own kinds
        raise ValueError(
            f"text tokenizer {path} cannot be read by AutoTokenizer, as it was formerly: {error}"
        ) from error
    added = read_table(file).get("added_tokens", []) if file.name == TOKENIZER_JSON else []
    spelt = [*special_names(folder).values(), *(token["content"] for token in added)]
    for text in (*_PROBES, " a ".join(spelt)):
        if former.encode(text, add_special_tokens=False, split_special_tokens=True) != tokenizer.encode(text):
            return text
    return None


def warn_of_former_checkpoint(folder: Path, path: str) -> None:
    """Say that a checkpoint was trained on other ids than its text tokenizer gives now.

    Args:
        folder: The checkpoint.
        path: Its text tokenizer; may be empty or lead nowhere.
    """
    if not Path(path or "-").is_dir() or (folder / _RECORD).exists():
        return
    text = first_difference(path)
    if text is not None:
        warnings.warn(
            f"{folder} was trained by a former version, which read {path} by a class of transformers: of {text!r} that "
            "makes other ids than the file of the tokenizer, which is read now. Build the index again and train on",
            stacklevel=2,
        )
