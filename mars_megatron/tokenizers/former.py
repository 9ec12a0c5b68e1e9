"""Whether the former way of reading a tokenizer folder, by a class of transformers, gave the ids of its file.

Indices made in that way do not say how they were read (`TextTokenizerInfo.content` is empty), and checkpoints trained
on them have no record of their tokenizers.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

from mars_megatron.tokenizers.fingerprint import text_fingerprint
from mars_megatron.tokenizers.text import load_text_tokenizer
from mars_megatron.tokenizers.text_files import TOKENIZER_JSON, deciding_file, read_table, special_names

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
