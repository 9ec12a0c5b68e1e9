"""The tokenizers that a converted checkpoint carries with it."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.formats import Opened
from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.copying import copy_image_tokenizer, copy_text_tokenizer
from mars_megatron.tokenizers.text_checks import check_table

# Where a copy lies beside a checkpoint.
_FOLDERS = {"text_tokenizer": "tokenizer", "image_tokenizer": "image_tokenizer"}


def take_tokenizers(config: RunConfig, text: Path | None, image: Path | None, staging: Path, target: Path) -> RunConfig:
    """Copy tokenizers beside the checkpoint, and let the configuration name them where they will lie.

    Names of what is not on this machine are left out.
    """
    data = config.data
    if not Path(data.text_tokenizer).exists():
        data = replace(data, text_tokenizer="")
    if not Path(data.image_tokenizer).exists():
        data = replace(data, image_tokenizer="")
    if text is not None:
        data = replace(data, text_tokenizer=_take_text_tokenizer(text, staging, target) or data.text_tokenizer)
    if text is not None and not data.text_tokenizer:
        warnings.warn(f"the result has no text tokenizer, {text} has none that can be read", stacklevel=2)
    if image is not None:
        copy_image_tokenizer(image, staging / "image_tokenizer")
        data = replace(data, image_tokenizer=str(target / "image_tokenizer"))
    return replace(config, data=data)


def check_text_tokenizer(place: Path, text_size: int, path: str | Path) -> None:
    """Refuse the text tokenizer of a start checkpoint if it does not fit, and warn of what it leaves to the user.

    Args:
        place: Where it lies for now.
        text_size: Rows of the language model's table.
        path: Where it lies for the user.

    Raises:
        ValueError: Texts make ids that the table has no row for.
    """
    tokenizer = load_text_tokenizer(place)
    check_table(tokenizer, text_size, path)
    if tokenizer.size > text_size:
        beyond = sorted(tokenizer.tokens_from(text_size).items(), key=lambda item: item[1])
        warnings.warn(
            f"text tokenizer {path} has {tokenizer.size} ids, the language model {text_size} rows. That is accepted: "
            f"no text makes the tokens beyond ({', '.join(map(repr, dict(beyond[:5])))}"
            f"{', ...' if len(beyond) > 5 else ''})",
            stacklevel=2,
        )
    if tokenizer.wants_bos:
        warnings.warn(
            f"text tokenizer {path} puts its bos_token (id {tokenizer.bos_id}) in front of every text, and the "
            "language model expects it there. Captions, texts and prompts begin without it here, in training and in "
            "sampling alike: the frozen text expert sees other first tokens than it was trained with",
            stacklevel=2,
        )


def find_tokenizer(opened: Opened, setting: str) -> str:
    """The path that a checkpoint's configuration names; the copy beside it where that is not there any more."""
    path: str = getattr(opened.config.data, setting)
    beside = opened.path.parent / _FOLDERS[setting]
    return str(beside) if path and not Path(path).exists() and beside.is_dir() else path


def _take_text_tokenizer(source: Path, staging: Path, target: Path) -> str:
    """Its place, or nothing with a warning where there is none that can be read."""
    copy = staging / "tokenizer"
    try:
        if (source / "qwen.tiktoken").is_file():
            from mars_megatron.tokenizers.qwen import convert_qwen_tokenizer  # slow: transformers

            convert_qwen_tokenizer(source, copy)
        else:
            copy_text_tokenizer(source, copy)
        load_text_tokenizer(copy)
    except ValueError as error:
        shutil.rmtree(copy, ignore_errors=True)
        warnings.warn(f"the result has no text tokenizer; data.text_tokenizer can name one ({error})", stacklevel=2)
        return ""
    return str(target / "tokenizer")
