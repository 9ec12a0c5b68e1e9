"""The text tokenizer of an exported folder: the file that decides its ids, under a class that leaves them as they are.

A class of transformers for a family (LlamaTokenizer, Qwen2Tokenizer, ...) builds its own tokenizer out of the file's
vocabulary. A conversion of a SentencePiece model to a tokenizer.json has other ids for some texts: the tokenizers
library normalises by grapheme, and breaks ties between equally probable segmentations in another way.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from mars_megatron.export import tokenization_mars
from mars_megatron.export.code import TOKENIZATION, write_code
from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.text import JsonTokenizer, SentencePieceTokenizer
from mars_megatron.tokenizers.tokenizer_files import CHAT_TEMPLATE, CONFIG, TOKENIZER_JSON, added_tokens, read_table

# Of the source's configuration; what else it has, a file or a class decides, or says nothing of text.
_KEPT = ("chat_template", "model_max_length", "padding_side", "truncation_side")
_OTHERS = "additional_special_tokens"


def write_text_tokenizer(source: str | Path, folder: Path, text_size: int) -> None:
    """Write the files by which AutoTokenizer gives the ids of `load_text_tokenizer`.

    Args:
        source: A SentencePiece .model file or a tokenizer folder.
        folder: Exists. Gets tokenizer.json, or tokenizer.model with tokenization_mars.py; and tokenizer_config.json.
        text_size: Rows of the text table: what fills up batches is a token below it.

    Raises:
        ValueError: The source is no tokenizer.
    """
    tokenizer = load_text_tokenizer(source)
    if not isinstance(tokenizer, (JsonTokenizer, SentencePieceTokenizer)):
        raise ValueError(
            f"text tokenizer {source} is a {type(tokenizer).__name__}; an exported folder takes a tokenizer.json or a "
            "SentencePiece model"
        )
    ids = tokenizer.tokens_from(0)
    beside = Path(source) if Path(source).is_dir() else None
    config = read_table(beside / CONFIG) if beside else {}
    names = {"pad_token": tokenizer.names["eos_token"], **tokenizer.names}
    if ids[names["pad_token"]] >= text_size:
        names["pad_token"] = names["eos_token"]
    is_json = tokenizer.file.name == TOKENIZER_JSON
    shutil.copyfile(tokenizer.file, folder / (TOKENIZER_JSON if is_json else tokenization_mars.MODEL_FILE))
    own = _of_json(tokenizer.file, config, names) if is_json else _of_sentencepiece(tokenizer.file, beside)
    if "auto_map" in own:
        write_code(folder, [TOKENIZATION])
    kept = {name: config[name] for name in _KEPT if config.get(name) is not None}
    settings = {**own, **names, **kept, "clean_up_tokenization_spaces": False}
    text = json.dumps(settings, ensure_ascii=False, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if beside and (beside / CHAT_TEMPLATE).is_file():
        shutil.copyfile(beside / CHAT_TEMPLATE, folder / CHAT_TEMPLATE)


def _of_json(file: Path, config: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Class and settings that leave a tokenizer.json as it is."""
    added = {token["content"]: token["special"] for token in read_table(file).get("added_tokens", [])}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if any(not added.get(token, True) for token in names.values()):
        settings |= _class("MarsJsonTokenizer", fast=True)
    others = config.get(_OTHERS) or config.get("extra_special_tokens") or []
    contents = [token.get("content") if isinstance(token, dict) else token for token in others]
    if special := [content for content in contents if added.get(content)]:
        settings[_OTHERS] = special
    # transformers 4 lets this setting, false by default, overrule the file
    pre_tokenizer = read_table(file).get("pre_tokenizer") or {}
    settings["add_prefix_space"] = bool(pre_tokenizer.get("add_prefix_space", False))
    return settings | {"model_input_names": ["input_ids", "attention_mask"]}


def _of_sentencepiece(file: Path, folder: Path | None) -> dict[str, Any]:
    """The same of a SentencePiece model, with the tokens that a folder adds to its pieces."""
    num_pieces = SentencePieceProcessor(model_file=str(file)).vocab_size()
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    added = {
        str(number): {"content": content, "special": special, **flags}
        for content, (number, special) in (added_tokens(folder) if folder else {}).items()
        if number >= num_pieces
    }
    # Of pieces alone, the ids are SentencePiece's for every text; chats have tokens that are to be found in it.
    settings = {**_class("MarsSentencePieceTokenizer", fast=False), "split_special_tokens": not added}
    return settings | ({"added_tokens_decoder": added} if added else {})


def _class(name: str, *, fast: bool) -> dict[str, Any]:
    reference = f"{TOKENIZATION}.{name}"
    return {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [None, reference] if fast else [reference, None]}}
