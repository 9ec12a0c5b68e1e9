"""The original Qwen's tokenizer gives the ids that byte pairs merged by rank give."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

import pytest
import regex
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.qwen import _PATTERN, convert_qwen_tokenizer, read_ranks

TEXTS = [
    "a red square and a blue circle, it's 1234 of them",
    "一个红色方块，一个蓝色圆圈。",
    "  spaces\n\n and   lines\r\n",
    "Café déjà vu",
    "e\u0301 is composed",
    "I'LL don't  ",
    "😀 unseen ⟨⟩",
    "",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qwen.tiktoken learned from the texts: all bytes, then the merges in order."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    to_byte = {tokenizer.pre_tokenizer.pre_tokenize_str(chr(n))[0][0][-1]: n for n in range(128)}
    merged = [token for token in tokenizer.get_vocab() if len(token) > 1 and all(c in to_byte for c in token)]
    tokens = [bytes([n]) for n in range(256)]
    tokens += [bytes(to_byte[c] for c in token) for token in sorted(merged, key=tokenizer.get_vocab().get)]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    return folder


def reference(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Of every piece the neighbours of the lowest rank are merged until none has one."""
    ids = []
    for piece in regex.findall(_PATTERN, unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in piece.encode()]
        while True:
            pairs = [
                (ranks[parts[n] + parts[n + 1]], n) for n in range(len(parts) - 1) if parts[n] + parts[n + 1] in ranks
            ]
            if not pairs:
                break
            _, at = min(pairs)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_ids_and_texts(source: Path, tmp_path: Path) -> None:
    convert_qwen_tokenizer(source, tmp_path / "tokenizer")
    tokenizer, ranks = load_text_tokenizer(tmp_path / "tokenizer"), read_ranks(source / "qwen.tiktoken")
    assert len(ranks) > 300
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == reference(text, ranks), text
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert any(id_ >= 256 for id_ in tokenizer.encode(TEXTS[0])), "nothing was merged"


def test_special_tokens_lie_behind_the_ranks(source: Path, tmp_path: Path) -> None:
    convert_qwen_tokenizer(source, tmp_path)
    tokenizer, number = load_text_tokenizer(tmp_path), len(read_ranks(source / "qwen.tiktoken"))
    assert (tokenizer.eos_id, tokenizer.size) == (number, number + 208)
    names = ["<|im_start|>", "<|extra_204|>"]
    assert AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids(names) == [number + 1, number + 207]
    assert max(tokenizer.encode("a".join(names))) < number, "spelt out in a text they are text"


@pytest.mark.parametrize("line", ["YQ== x", "YQ==", "*** 1", "YQ== 7"])
def test_damaged_files(tmp_path: Path, line: str) -> None:
    (tmp_path / "qwen.tiktoken").write_text(line + "\n")
    with pytest.raises(ValueError, match="qwen.tiktoken"):
        convert_qwen_tokenizer(tmp_path, tmp_path / "out")
