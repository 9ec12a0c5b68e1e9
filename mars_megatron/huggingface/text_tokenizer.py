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
from tokenizers import Tokenizer

from mars_megatron.huggingface import tokenization_mars
from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.copying import CHAT_TEMPLATE
from mars_megatron.tokenizers.text_files import CONFIG, TOKENIZER_JSON, added_tokens, read_table, special_names

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
    source_folder = Path(source) if Path(source).is_dir() else None
    config = read_table(source_folder / CONFIG) if source_folder else {}
    kept = {name: config[name] for name in _KEPT if config.get(name) is not None}
    names = special_names(source_folder) if source_folder else {}
    is_json = tokenizer.file.name == TOKENIZER_JSON
    if is_json:
        ids, own = _of_json(tokenizer.file, config, names)
    else:
        ids, own = _of_sentencepiece(tokenizer.file, added_tokens(source_folder) if source_folder else {}, names)
    if ids.get("pad_token", text_size) >= text_size:
        ids["pad_token"], names["pad_token"] = ids["eos_token"], names["eos_token"]
    named = {name: names[name] for name in ids}
    shutil.copyfile(tokenizer.file, folder / (TOKENIZER_JSON if is_json else tokenization_mars.MODEL_FILE))
    if "auto_map" in own:
        shutil.copyfile(str(tokenization_mars.__file__), folder / "tokenization_mars.py")
    settings = {**own, **named, **kept, "clean_up_tokenization_spaces": False}
    text = json.dumps(settings, ensure_ascii=False, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if source_folder and (source_folder / CHAT_TEMPLATE).is_file():
        shutil.copyfile(source_folder / CHAT_TEMPLATE, folder / CHAT_TEMPLATE)


def _of_json(file: Path, config: dict[str, Any], names: dict[str, str]) -> tuple[dict[str, int], dict[str, Any]]:
    """Ids of the named tokens, and the settings that the file does not say."""
    tokenizer = Tokenizer.from_file(str(file))
    found = {name: tokenizer.token_to_id(token) for name, token in names.items()}
    ids = {name: number for name, number in found.items() if number is not None}
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    others = config.get(_OTHERS) or config.get("extra_special_tokens") or []
    contents = [token.get("content") if isinstance(token, dict) else token for token in others]
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if any(not added.get(names[name], True) for name in ids):
        settings |= _class("MarsJsonTokenizer", fast=True)
    if special := [content for content in contents if added.get(str(content))]:
        settings[_OTHERS] = special
    # transformers 4 lets this setting, false by default, overrule the file
    pre_tokenizer = read_table(file).get("pre_tokenizer") or {}
    settings["add_prefix_space"] = bool(pre_tokenizer.get("add_prefix_space", False))
    return ids, settings | {"model_input_names": ["input_ids", "attention_mask"]}


def _of_sentencepiece(
    file: Path, added: dict[str, tuple[int, bool]], names: dict[str, str]
) -> tuple[dict[str, int], dict[str, Any]]:
    """The same of a SentencePiece model, whose own names fill up `names`."""
    processor = SentencePieceProcessor(model_file=str(file))
    own = {"unk": processor.unk_id(), "bos": processor.bos_id(), "eos": processor.eos_id(), "pad": processor.pad_id()}
    for name, number in own.items():
        if number >= 0:
            names.setdefault(f"{name}_token", processor.id_to_piece(number))
    added = {content: known for content, known in added.items() if known[0] >= processor.vocab_size()}
    pieces = {name: processor.piece_to_id(token) for name, token in names.items()}
    ids = {name: number for name, number in pieces.items() if processor.id_to_piece(number) == names[name]}
    ids |= {name: added[token][0] for name, token in names.items() if token in added}
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    listed = {
        str(number): {"content": content, "special": special, **flags} for content, (number, special) in added.items()
    }
    settings = _class("MarsSentencePieceTokenizer", fast=False)
    # Of pieces alone, the ids are SentencePiece's for every text; chats have tokens that are to be found in it.
    settings["split_special_tokens"] = not added
    return ids, settings | ({"added_tokens_decoder": listed} if added else {})


def _class(name: str, *, fast: bool) -> dict[str, Any]:
    reference = f"tokenization_mars.{name}"
    return {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [None, reference] if fast else [reference, None]}}
