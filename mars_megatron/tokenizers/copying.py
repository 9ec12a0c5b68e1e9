"""Copies of tokenizers, so that a converted checkpoint carries its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from mars_megatron.tokenizers.fingerprint import IMAGE_PATTERNS, TEXT_PATTERNS, tokenizer_files

# Says nothing about ids, so it is no part of a fingerprint.
CHAT_TEMPLATE = "chat_template.jinja"


def copy_text_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copy the tokenizer files of a Hugging Face folder, which may hold a model beside them.

    Raises:
        ValueError: There are none.
    """
    files = tokenizer_files(Path(source), TEXT_PATTERNS, "text tokenizer")
    _copy([*files, *Path(source).glob(CHAT_TEMPLATE)], Path(target))


def copy_image_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copy a diffusers VQModel folder.

    Raises:
        ValueError: There is none.
    """
    _copy(tokenizer_files(Path(source), IMAGE_PATTERNS, "image tokenizer"), Path(target))


def _copy(files: list[Path], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
