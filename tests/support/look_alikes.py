"""Small tokenizers built like those of real families, learned from a text in many scripts, and that text."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_WORDS = (
    "a red square and two blue circles with 12345 dots 3.14 2024-05-06 don't I'LL Naïve café ÜBER straße seventeen "
    "красный квадрат и синий круг ελληνικά γράμματα مربع أحمر עברית हिन्दी लाल สี่เหลี่ยม 한국어 사각형 "
    "Tiếng Việt አማርኛ 一个红色方块 两个蓝色圆圈 繁體中文 赤い四角 カタカナ ﾊﾝｶｸ ｶﾞｷﾞ ＦＵＬＬ ｗｉｄｔｈ １２３ ①② ﬁne ㍿ "
    "e\u0301 o\u0308 \u1112\u1161\u11ab 😀 👨‍👩‍👧 🇩🇪 ☃ 𝔘𝔫𝔦 ½ € x=1; {code} [x] # C++ https://example.org/?a=1&b=2 "
    "aaaa 0000000 !!!! ... — “q” ▁ \u200b \u00a0"
).split(" ")
SPELT = (
    "<s> </s> <unk> <pad> <bos> <eos> <|endoftext|> <|startoftext|> <|im_start|> <|im_end|> <|begin_of_text|> "
    "<|end_of_text|> <|eot_id|> <think> </think> <tool_call> <start_of_turn> [INST] "
    "<｜end▁of▁sentence｜> <｜User｜> <0x41>"
).split(" ")


def lines(count: int = 2000) -> list[str]:
    """Texts with double and outer spaces, tabs, other line breaks, and special and chat tokens spelt out."""
    rng = random.Random(0)
    gaps = [" "] * 12 + ["  ", "   ", "\t", "", "", "\u3000", " \t "]
    texts: list[str] = []
    while len(texts) < count:
        known = [*_WORDS, *(rng.choices(SPELT, k=8) if len(texts) % 3 == 0 else [])]
        words = rng.choices(known, k=rng.randint(1, 12))
        words = [word if rng.random() < 0.6 else word[rng.randint(0, 2) : rng.randint(2, 9)] for word in words]
        text = rng.choice(["", "", " ", "  "]) + "".join(word + rng.choice(gaps) for word in words)
        text = text if rng.random() < 0.8 else text.rstrip()
        texts += [text] if text.strip() else []
    return texts


_CORPUS = [" ".join(random.Random(number).choices(_WORDS[::2], k=6)) for number in range(300)]
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN = _GPT4.replace("{1,3}", "")


def _byte_level(tokenizer: Tokenizer, *first: Any, use_regex: bool = False) -> Tokenizer:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, last]) if first else last
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _metaspace_bpe(pieces: tuple[str, ...], *steps: Any) -> Tokenizer:
    """Byte fallback and spaces as a sign, all in the normaliser, as converted SentencePiece models have it."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    learned = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learned.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    learned.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^▁])(?=▁)"), "isolated")  # words, for learning alone
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*pieces, *bytes_], show_progress=False)
    learned.train_from_iterator(_CORPUS, trainer)
    values = json.loads(learned.to_str())
    values |= {"pre_tokenizer": None, "added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _special(tokenizer: Tokenizer, *tokens: str, **flags: bool) -> Tokenizer:
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, **{"normalized": False, **flags}) for token in tokens]
    )
    return tokenizer


def _plain(tokenizer: Tokenizer, *tokens: str, **flags: bool) -> Tokenizer:
    tokenizer.add_tokens([AddedToken(token, special=False, **{"normalized": False, **flags}) for token in tokens])
    return tokenizer


def _starts(tokenizer: Tokenizer, token: str) -> Tokenizer:
    number = tokenizer.token_to_id(token)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])
    return tokenizer


def _gpt2() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _special(_byte_level(Tokenizer(models.BPE()), use_regex=True), "<|endoftext|>")
    return tokenizer, {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "add_prefix_space": False}


def _smollm() -> tuple[Tokenizer, dict[str, Any]]:
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = _special(_byte_level(Tokenizer(models.BPE()), digits, use_regex=True), "<|endoftext|>", "<|im_start|>",
                         "<|im_end|>")  # fmt: skip
    return tokenizer, {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }


def _yi() -> tuple[Tokenizer, dict[str, Any]]:
    names = ("<unk>", "<|startoftext|>", "<|endoftext|>")
    tokenizer = _special(_metaspace_bpe(names), *names, "<|im_start|>", "<|im_end|>")
    return tokenizer, {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "unk_token": "<unk>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
    }


def _llama2() -> tuple[Tokenizer, dict[str, Any]]:
    names = ("<unk>", "<s>", "</s>")
    tokenizer = _starts(_special(_metaspace_bpe(names, normalizers.Prepend("▁")), *names), "<s>")
    eos = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "rstrip": False, "single_word": False,
           "normalized": True}  # fmt: skip
    return tokenizer, {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": eos, "unk_token": "<unk>"}


def _llama3() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _byte_level(Tokenizer(models.BPE(ignore_merges=True)), _split(_GPT4))
    tokenizer = _special(tokenizer, "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    return _starts(tokenizer, "<|begin_of_text|>"), {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _qwen2() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer = _special(_byte_level(tokenizer, _split(_QWEN)), "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return _plain(tokenizer, "<tool_call>", "<think>", "</think>"), {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
    }


def _deepseek() -> tuple[Tokenizer, dict[str, Any]]:
    cuts = [_split(r"\p{N}{1,3}"), _split("[一-龥぀-ゟ゠-ヿ]+"), _split(_GPT4)]
    tokenizer = _special(
        _byte_level(Tokenizer(models.BPE()), *cuts), "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    )
    tokenizer = _plain(tokenizer, "<｜User｜>", "<think>", "</think>")
    return _starts(tokenizer, "<｜begin▁of▁sentence｜>"), {
        "tokenizer_class": "LlamaTokenizerFast",
        "add_bos_token": True,
        "bos_token": {"__type": "AddedToken", "content": "<｜begin▁of▁sentence｜>", "normalized": True},
        "eos_token": {"__type": "AddedToken", "content": "<｜end▁of▁sentence｜>", "normalized": True},
    }


def _gemma() -> tuple[Tokenizer, dict[str, Any]]:
    names = ("<pad>", "<eos>", "<bos>", "<unk>")
    tokenizer = _special(_metaspace_bpe(names), *names, "<start_of_turn>")
    tokenizer = _plain(_starts(tokenizer, "<bos>"), "[INST]", "▁▁")
    return tokenizer, {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>"}


def _neox() -> tuple[Tokenizer, dict[str, Any]]:
    """Runs of spaces are added tokens, which are looked for behind the normaliser."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer = _special(_byte_level(tokenizer, use_regex=True), "<|endoftext|>", "<|padding|>")
    return _plain(tokenizer, "  ", "   ", normalized=True), {
        "tokenizer_class": "GPTNeoXTokenizer",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
    }


def _unigram() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=800, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"],
                                      show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer, {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }


def _word_piece() -> tuple[Tokenizer, dict[str, Any]]:
    """Stores that texts are cut and filled up, and puts tokens around them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
                                        show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(_CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9, pad_token="[PAD]")
    return tokenizer, {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]", "unk_token": "[UNK]"}


def _named_but_plain() -> tuple[Tokenizer, dict[str, Any]]:
    """eos_token is an added token like others; another token has a name and is none of the added ones."""
    tokenizer = _plain(_byte_level(Tokenizer(models.BPE()), _split(_QWEN)), "<|im_end|>", "<|im_start|>")
    return tokenizer, {
        "tokenizer_class": "Qwen2TokenizerFast",
        "eos_token": "<|im_end|>",
        "unk_token": "a",
        "pad_token": "nowhere",
        "additional_special_tokens": ["<|im_start|>", "not there"],
    }


JSON: dict[str, Callable[[], tuple[Tokenizer, dict[str, Any]]]] = {
    "gpt2": _gpt2,
    "smollm": _smollm,
    "yi": _yi,
    "llama2": _llama2,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "deepseek": _deepseek,
    "gemma": _gemma,
    "neox": _neox,
    "unigram": _unigram,
    "wordpiece": _word_piece,
    "named but plain": _named_but_plain,
}
SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "sp unigram": {},
    "sp llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
                 "remove_extra_whitespaces": False, "split_digits": True},
    "sp nfkc bytes": {"model_type": "bpe", "byte_fallback": True},
    "sp symbols": {"user_defined_symbols": ["<think>", "[INST]", "  ", "三"], "control_symbols": ["<|im_end|>"],
                   "add_dummy_prefix": False},
    "sp suffix": {"treat_whitespace_as_suffix": True, "bos_id": -1, "pad_id": 3, "normalization_rule_name": "nfkc_cf"},
    "sp char": {"model_type": "char"},
}  # fmt: skip
CONFIG_JSON = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 1000}


def write_json(name: str, folder: Path) -> Path:
    """The folder of a look-alike of `JSON`: tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True)
    tokenizer, settings = JSON[name]()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    return folder


def write_sentencepiece(name: str, file: Path) -> Path:
    """The .model file of a look-alike of `SENTENCEPIECE`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS), model_writer=model, vocab_size=700, hard_vocab_limit=False, minloglevel=2,
        **SENTENCEPIECE[name],
    )  # fmt: skip
    file.write_bytes(model.getvalue())
    return file


def with_config(folder: Path, target: Path, model_type: str = "llama") -> Path:
    """A copy of a folder, with the config.json of a language model beside it."""
    shutil.copytree(folder, target)
    (target / "config.json").write_text(json.dumps(CONFIG_JSON | {"model_type": model_type}))
    return target


def write(name: str, folder: Path) -> Path:
    """A look-alike of either kind: its folder or file."""
    return write_json(name, folder) if name in JSON else write_sentencepiece(name, folder / "text.model")


def reference(path: Path, texts: list[str]) -> list[list[int]]:
    """Ids by the library of the file, special tokens as text; nothing of this project."""
    if path.is_dir() and (path / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
    file = next(path.glob("*.model")) if path.is_dir() else path
    return sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(texts)
