"""Whether the former way of reading a tokenizer folder, by a class of transformers, gave the ids of its file.

Indices made in that way do not say how they were read (`TextTokenizerInfo.content` is empty), and checkpoints trained on
them have no record of their tokenizers.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

from mars_megatron.tokenizers.text import load_text_tokenizer

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


@lru_cache(maxsize=8)
def first_difference(path: str) -> str | None:
    """A text of which a class of transformers makes other ids than the file of a tokenizer folder; None: there is none.

    Raises:
        ValueError: The path does not exist, or cannot be read in one of both ways.
    """
    if not Path(path).is_dir():  # a SentencePiece model was always read as it is
        return None
    tokenizer = load_text_tokenizer(path)
    from transformers import AutoTokenizer  # slow

    try:
        former = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"text tokenizer {path} cannot be read by AutoTokenizer, as it was formerly: {error}") from error
    for text in _PROBES:
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
