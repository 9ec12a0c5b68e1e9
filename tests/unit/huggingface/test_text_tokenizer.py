"""SentencePiece models without SentencePiece."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from mars_megatron.huggingface import text_tokenizer
from mars_megatron.huggingface.text_tokenizer import convert_sentencepiece

WORDS = "a the red green blue square circle three seven seventeen plus four is running runner everything".split()
CHARACTERS = "一二三四五六七八九十手写数字红绿蓝色方块圆形加减等于这是我的图片"
SYMBOLS = "三,▁seven,seven,数字,<img>"
TEXTS = [
    "",
    " ",
    "a red  square ",
    "一个手写数字三",
    "seven sevens are seventeen 三三",
    "é ☃ x<img>y",
    "ｆｕｌｌ　width",
]


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(2, 8))) for _ in range(1000)]
    return lines + ["".join(rng.choices(CHARACTERS, k=rng.randint(3, 12))) for _ in range(1000)]


def train(sentences: list[str], path: Path, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            vocab_size=420,
            hard_vocab_limit=False,
            minloglevel=2,
            **settings,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"user_defined_symbols": SYMBOLS},
        {"byte_fallback": True},
        {"add_dummy_prefix": False, "normalization_rule_name": "identity"},
        {"pad_id": 3, "bos_id": -1},
    ],
    ids=["plain", "symbols", "bytes", "as it is", "other ids"],
)
def test_ids_and_texts_are_the_same(sentences: list[str], tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    processor = train(sentences, tmp_path / "a.model", model_type=kind, **settings)
    (tmp_path / "out").mkdir()
    convert_sentencepiece(tmp_path / "a.model", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert len(tokenizer) == processor.vocab_size()
    assert tokenizer.eos_token_id == processor.eos_id()
    assert tokenizer.pad_token_id == (processor.pad_id() if "pad_id" in settings else processor.eos_id())
    assert tokenizer.bos_token_id == (processor.bos_id() if processor.bos_id() >= 0 else None)
    for text in [*TEXTS, *sentences[::50]]:
        ids = processor.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        if processor.unk_id() not in ids:
            decoded = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
            assert decoded == processor.decode(ids)


def test_special_pieces_do_not_mix_with_text(sentences: list[str], tmp_path: Path) -> None:
    train(sentences, tmp_path / "a.model")
    convert_sentencepiece(tmp_path / "a.model", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a red").input_ids == tokenizer.encode("a red", add_special_tokens=False)
    assert tokenizer.decode([2, 2], skip_special_tokens=True) == ""


def test_what_cannot_be_exact_is_refused(sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(sentences, tmp_path / "suffix.model", treat_whitespace_as_suffix=True)
    with pytest.raises(ValueError, match="suffix.model cannot be exported: of .* it makes the ids"):
        convert_sentencepiece(tmp_path / "suffix.model", tmp_path)
    train(sentences, tmp_path / "word.model", model_type="word", use_all_vocab=True)
    with pytest.raises(ValueError, match="word.model is neither a unigram nor a BPE model"):
        convert_sentencepiece(tmp_path / "word.model", tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()

    build = text_tokenizer._build

    def without_decoder(proto: Any) -> Any:
        tokenizer = build(proto)
        tokenizer.decoder = None
        return tokenizer

    train(sentences, tmp_path / "fine.model")
    monkeypatch.setattr(text_tokenizer, "_build", without_decoder)
    with pytest.raises(ValueError, match="fine.model cannot be exported: it reads the ids"):
        convert_sentencepiece(tmp_path / "fine.model", tmp_path)
