"""Copies of tokenizers, so that a converted checkpoint carries its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from mars_megatron.tokenizers.image import load_image_tokenizer
from mars_megatron.tokenizers.text_files import IMAGE_PATTERNS, TEXT_PATTERNS, tokenizer_files

# Where the tensors of several files lie; says nothing about codes, so it is no part of a fingerprint either.
_INDEX = "diffusion_pytorch_model.*.index.json"
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
    """Copy a diffusers VQModel folder, which is opened first: a copy of something else is found too late.

    Raises:
        ValueError: It cannot be opened; see `load_image_tokenizer`.
    """
    load_image_tokenizer(source)
    files = tokenizer_files(Path(source), IMAGE_PATTERNS, "image tokenizer")
    _copy([*files, *Path(source).glob(_INDEX)], Path(target))


def _copy(files: list[Path], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
