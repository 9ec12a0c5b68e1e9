"""Fingerprints that tell whether an index was made with a given tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

# The files that decide what a tokenizer does; a Hugging Face folder may hold model weights beside them.
TEXT_PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tokenization_*.py",
)
IMAGE_PATTERNS = ("config.json", "*.safetensors", "*.bin")


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def tokenizer_files(folder: Path, patterns: tuple[str, ...], setting: str) -> list[Path]:
    """Files of a folder that match, by name.

    Raises:
        ValueError: There are none; `setting` is what the message calls them.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise ValueError(f"{setting}: no tokenizer files in {folder} (expected one of {', '.join(patterns)})")
    return files


def text_fingerprint(path: str | Path) -> str:
    """sha256 (hex) of a SentencePiece model file, or of the tokenizer files of a Hugging Face folder.

    Raises:
        ValueError: The path does not exist, or the folder holds no tokenizer.
    """
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        raise ValueError(f"text tokenizer {path} does not exist (a .model file or a tokenizer folder)")
    return _hash_files(tokenizer_files(path, TEXT_PATTERNS, "text tokenizer"))


def image_fingerprint(path: str | Path) -> str:
    """sha256 (hex) of the configuration and weights of a diffusers VQModel folder.

    Raises:
        ValueError: The folder does not exist or holds no model.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"image tokenizer {path} does not exist (a diffusers VQModel folder)")
    return _hash_files(tokenizer_files(path, IMAGE_PATTERNS, "image tokenizer"))
