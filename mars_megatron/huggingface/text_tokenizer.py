"""A SentencePiece model as a tokenizer.json, which needs no SentencePiece to run."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_UNIGRAM, _BPE = 1, 2  # trainer_spec.model_type
_NORMAL, _UNKNOWN, _CONTROL, _SYMBOL = 1, 2, 3, 4  # piece.type
_SPACE = "▁"
_NUM_TEXTS = 1000
_TEXTS = (
    "",
    " ",
    "a red square, with 3 blue circles.",
    "  Two   spaces, Capitals and a tail  ",
    "一个手写数字三，三加四等于七。",
    "文字 and words 混合 mixed",
    "https://example.org/?a=1&b=2 <html> {code} [x] C++ #1 100% $5 'quoted' \"twice\"",
    "Ünïcode çafé naïve Straße",
    "ＦＵＬＬ width １２３ ①②",
    "tab\tnew\nline\r\n",
    "русский текст, عربى, 한국어, ไทย, ελληνικά",
    "unknown ⟨⟩ ☃ 😀😀 𝔘𝔫𝔦",
    "aaaa bbbbbbbbbbbb 0000000",
)


def convert_sentencepiece(model: str | Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, whose ids are those of a SentencePiece model.

    Three differences are those of the libraries. Texts that spell out a control piece, such as </s>, are read as that
    piece. An unknown piece leaves no trace in decoded text, where SentencePiece has a sign for it. Of segmentations
    that a unigram model finds equally probable another one may be chosen.

    Args:
        model: The .model file; unigram or BPE.
        folder: Where the two files are written.

    Raises:
        ValueError: The model is of another kind, or its ids cannot be reproduced.
    """
    processor = SentencePieceProcessor(model_file=str(model))
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(Path(model).read_bytes())
    if proto.trainer_spec.model_type not in (_UNIGRAM, _BPE):
        raise ValueError(f"text tokenizer {model} is neither a unigram nor a BPE model; accepted for export: these")
    tokenizer = _build(proto)
    _check(tokenizer, processor, proto, model)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"unk": processor.unk_id(), "bos": processor.bos_id(), "eos": processor.eos_id(), "pad": processor.pad_id()}
    if ids["pad"] < 0:
        ids["pad"] = ids["eos"]
    settings: dict[str, Any] = {f"{name}_token": processor.id_to_piece(id_) for name, id_ in ids.items() if id_ >= 0}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {"model_input_names": ["input_ids", "attention_mask"]}
    text = json.dumps(settings, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _build(proto: Any) -> Tokenizer:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    symbols = sorted((piece.piece for piece in proto.pieces if piece.type == _SYMBOL), key=len, reverse=True)
    tokenizer = Tokenizer(_unigram(proto) if trainer.model_type == _UNIGRAM else _bpe(proto, bool(symbols)))
    steps: list[Any] = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex("^ +| +$"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if normalizer.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    if symbols:  # each is a piece of its own wherever it stands, the longest first
        pattern = "|".join(re.escape(symbol) for symbol in symbols)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    bytes_ = [decoders.ByteFallback()] if trainer.byte_fallback else []
    prefix = [decoders.Strip(" ", 1, 0)] if normalizer.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), *bytes_, decoders.Fuse(), *prefix])
    special = [piece.piece for piece in proto.pieces if piece.type in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return tokenizer


def _unigram(proto: Any) -> Any:
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    return models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any, whole_words: bool) -> Any:
    """SentencePiece merges what gives the best piece; tokenizers what comes first in a list."""
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    merges = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return models.BPE(
        ids,
        [(left, right) for *_, left, right in sorted(merges)],
        unk_token=proto.trainer_spec.unk_piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
        ignore_merges=whole_words,  # symbols are made by no merge
    )


def _check(tokenizer: Tokenizer, processor: SentencePieceProcessor, proto: Any, model: str | Path) -> None:
    """Compare ids and texts on fixed sentences and on random rows of pieces and characters."""
    for text in (*_TEXTS, *_random_texts(proto)):
        wanted = processor.encode(text)
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if found != wanted and not (
            proto.trainer_spec.model_type == _UNIGRAM and _equally_probable(found, wanted, processor)
        ):
            raise ValueError(
                f"text tokenizer {model} cannot be exported: of {text!r} it makes the ids {wanted}, its exported form "
                f"{found}; give a tokenizer folder of transformers instead"
            )
        if processor.unk_id() not in wanted and tokenizer.decode(wanted) != processor.decode(wanted):
            raise ValueError(
                f"text tokenizer {model} cannot be exported: it reads the ids {wanted} as "
                f"{processor.decode(wanted)!r}, its exported form as {tokenizer.decode(wanted)!r}"
            )


def _equally_probable(first: list[int], second: list[int], processor: SentencePieceProcessor) -> bool:
    totals = [sum(processor.get_score(id_) for id_ in ids) for ids in (first, second)]
    return sorted(first) == sorted(second) or abs(totals[0] - totals[1]) < 1e-4


def _random_texts(proto: Any) -> list[str]:
    rng = random.Random(0)
    pieces = [piece.piece for piece in proto.pieces if piece.type in (_NORMAL, _SYMBOL)]
    letters = sorted(set("".join(pieces)))
    rows = [rng.choices(pieces, k=rng.randint(1, 12)) for _ in range(_NUM_TEXTS)]
    rows += [rng.choices(letters, k=rng.randint(1, 20)) for _ in range(_NUM_TEXTS)]
    texts = [*pieces, *("".join(row) for row in rows)]
    control = [piece.piece for piece in proto.pieces if piece.type in (_UNKNOWN, _CONTROL)]
    return [text.replace(_SPACE, " ") for text in texts if not any(piece in text for piece in control)]
