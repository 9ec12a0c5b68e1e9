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
