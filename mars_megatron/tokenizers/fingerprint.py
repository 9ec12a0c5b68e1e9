"""Fingerprints that tell whether an index was made with a given tokenizer."""

from __future__ import annotations

from pathlib import Path

from mars_megatron.files.hashes import file_sha256, files_sha256

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
        return file_sha256(path)
    if not path.is_dir():
        raise ValueError(f"text tokenizer {path} does not exist (a .model file or a tokenizer folder)")
    return files_sha256(tokenizer_files(path, TEXT_PATTERNS, "text tokenizer"))


def image_fingerprint(path: str | Path) -> str:
    """sha256 (hex) of the configuration and weights of a diffusers VQModel folder.

    Raises:
        ValueError: The folder does not exist or holds no model.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"image tokenizer {path} does not exist (a diffusers VQModel folder)")
    return files_sha256(tokenizer_files(path, IMAGE_PATTERNS, "image tokenizer"))
