"""What lies in a tokenizer folder: the one file that decides its ids, added tokens, names, fingerprints, copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
# Says nothing about ids: it is no part of a fingerprint, but of a copy.
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_JSON = "tokenizer.json"
CONFIG = "tokenizer_config.json"
NAMES = ("eos_token", "bos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# Classes of transformers that put a begin token in front where nothing says whether they shall.
_BEGINNERS = ("LlamaTokenizer", "LLaMATokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
_RESAVE = (
    "save it as one with transformers (AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW)), see that its ids "
    "are those of the language model, and give NEW"
)
# What lies in a folder that has neither file, in this order, and what to do.
_OTHER_KINDS = (
    (
        "qwen.tiktoken",
        "the original Qwen's; tools/convert_checkpoint.py init-from-hf makes a tokenizer.json of it (TARGET/tokenizer)",
    ),
    ("tekken.json", f"Mistral's; {_RESAVE}"),
    ("*.tiktoken", f"which does not say how a text is cut; {_RESAVE}"),
    ("vocab.json", f"which does not say how a text is cut; {_RESAVE}"),
    ("merges.txt", f"which does not say how a text is cut; {_RESAVE}"),
    ("vocab.txt", f"which does not say how a text is cut; {_RESAVE}"),
    (
        "tokenization_*.py",
        f"code of its own, which is not run here; {_RESAVE} (with trust_remote_code, if you trust it)",
    ),
)


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


def deciding_file(folder: Path) -> Path:
    """tokenizer.json, or else tokenizer.model, or else the only file *.model.

    Raises:
        ValueError: There is none; the message says what there is and what to do.
    """
    for name in (TOKENIZER_JSON, "tokenizer.model"):
        if (folder / name).is_file():
            return folder / name
    models = sorted(path for path in folder.glob("*.model") if path.is_file())
    if len(models) == 1:
        return models[0]
    if models:
        names = ", ".join(path.name for path in models)
        raise ValueError(f"text tokenizer {folder} has several .model files ({names}); give one of them by its path")
    for pattern, remedy in _OTHER_KINDS:
        if found := sorted(folder.glob(pattern)):
            raise ValueError(
                f"text tokenizer {folder} has neither tokenizer.json nor a SentencePiece .model, but {found[0].name}, "
                f"{remedy}"
            )
    raise ValueError(f"text tokenizer: no tokenizer files in {folder} (expected {TOKENIZER_JSON} or a .model file)")


def read_table(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file does not exist.

    Raises:
        ValueError: It is something else.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object")
    return values


def special_names(folder: Path) -> dict[str, str]:
    """Tokens by name (eos_token, ...), of tokenizer_config.json and special_tokens_map.json.

    Where they differ the first one holds if it lists the added tokens, the second one otherwise, as for transformers.
    """
    config = read_table(folder / CONFIG)
    tables = [read_table(folder / "special_tokens_map.json"), config]
    if "added_tokens_decoder" not in config:
        tables.reverse()
    names: dict[str, str] = {}
    for table in tables:
        for name in NAMES:
            token = table.get(name)
            content = token.get("content") if isinstance(token, dict) else token
            if content and isinstance(content, str):
                names[name] = content
    return names


def added_tokens(folder: Path) -> dict[str, tuple[int, bool]]:
    """Id of each token that lies beside the file that decides, and whether it is special.

    added_tokens.json does not say so: its tokens are taken to be.

    Raises:
        ValueError: An id is no number.
    """
    found: dict[str, tuple[int, bool]] = {}
    path = folder / "added_tokens.json"
    try:
        for content, number in read_table(path).items():
            found[content] = int(number), True
        path = folder / CONFIG
        for number, token in (read_table(path).get("added_tokens_decoder") or {}).items():
            found[token["content"]] = int(number), bool(token.get("special", True))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not list added tokens with their ids: {error!r}") from error
    return found


def says_bos(folder: Path) -> bool | None:
    """Whether tokenizer_config.json wants a begin token in front of texts; None where it does not say."""
    config = read_table(folder / CONFIG)
    if isinstance(config.get("add_bos_token"), bool):
        return config["add_bos_token"]
    if not (folder / TOKENIZER_JSON).is_file():  # a post-processor would say
        return True if str(config.get("tokenizer_class", "")).removesuffix("Fast") in _BEGINNERS else None
    return None


def copy_text_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copy the tokenizer files of a Hugging Face folder, which may hold a model beside them.

    Raises:
        ValueError: There are none.
    """
    files = tokenizer_files(Path(source), TEXT_PATTERNS, "text tokenizer")
    copy_files([*files, *Path(source).glob(CHAT_TEMPLATE)], Path(target))


def copy_files(files: Iterable[Path], target: Path) -> None:
    """Copy files into a folder, which is made."""
    target.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
