"""The tokenizer of the original Qwen as a tokenizer.json, without tiktoken and without its remote code.

What it consists of is described in https://github.com/QwenLM/Qwen/blob/main/tokenization_note.md: byte pairs by rank,
text in NFC, and 208 special tokens behind the ranks, of which <|endoftext|> ends a document.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from tokenizers import AddedToken, normalizers
from transformers.convert_slow_tokenizer import TikTokenConverter

TIKTOKEN_FILE = "qwen.tiktoken"
# How text is cut before pairs are merged; digits stand alone.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "<|endoftext|>"
_SPECIAL = (_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


class _Converter(TikTokenConverter):
    """transformers' converter, reading the file itself."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        return read_ranks(Path(tiktoken_url))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Byte strings with their ids: a line has a string in base 64 and its rank.

    Raises:
        ValueError: A line is not of that form, or the ranks are not 0, 1, 2, ...
    """
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"{path} line {number} is {line[:40]!r}; accepted: base64 and a rank") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{path}: the ranks are not 0 to {len(ranks) - 1}, each once")
    return ranks


def convert_qwen_tokenizer(source: Path, target: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer reads.

    Args:
        source: Folder with qwen.tiktoken.
        target: Folder to write to; is made.

    Raises:
        ValueError: The file is damaged.
    """
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = _Converter(vocab_file=str(source / TIKTOKEN_FILE), pattern=_PATTERN).converted()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "pad_token": _END,
        "clean_up_tokenization_spaces": False,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
