"""Files of documents to go on with: JSONL lines with texts and the names of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mars_megatron.files.hashes import file_sha256
from mars_megatron.files.plain_text import parse_json, read_lines
from mars_megatron.indexing.images import load_image
from mars_megatron.sampling.documents import Document, Part
from mars_megatron.sampling.joint import LEAST
from mars_megatron.tokenizers import ImageTokenizer

FORM = (
    '{"parts": [{"text": "..."}, {"image": "a.png"}, ...]} and, optional, "seed", "max_images", "max_text_tokens" '
    '(whole numbers) and "stop_after_image" (true or false)'
)


@dataclass(frozen=True)
class DocumentPrompt:
    """One line of a file of documents.

    Args:
        parts: (kind, text or path) of each part; a kind is "text" or "image".
        seed, max_images, max_text_tokens, stop_after_image: See `joint.Request`.
    """

    parts: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    max_images: int = 1
    max_text_tokens: int = 64
    stop_after_image: bool = False

    def images(self) -> list[str]:
        """Paths of the image files."""
        return [value for kind, value in self.parts if kind == "image"]

    def described(self) -> dict[str, Any]:
        """What decides the result, for JSON: image files are named by their contents too.

        Raises:
            ValueError: An image file is not there.
        """
        return {**asdict(self), "parts": [_described(kind, value) for kind, value in self.parts]}


def read_document_prompts(path: str | Path, defaults: DocumentPrompt) -> list[DocumentPrompt]:
    """Read a JSONL file of documents.

    Args:
        path: The file. Names of images are taken from its folder.
        defaults: What holds for lines that do not say otherwise.

    Raises:
        ValueError: The file is missing or empty, or a line is not of the form or is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"prompts {path} is not a file; give one with {FORM} on each line")
    prompts = [_parse(line, where, path.parent, defaults) for where, line in read_lines(path, "prompts")]
    if not prompts:
        raise ValueError(f"prompts {path} is empty; give {FORM} on each line")
    return prompts


def load_documents(
    prompts: Sequence[DocumentPrompt], tokenizer: ImageTokenizer, resolution: int
) -> list[tuple[Document, torch.Tensor]]:
    """The documents, with their images brought to the size of the model as the indexer does.

    Returns:
        Each with its images as the model gets them, uint8 [images, resolution, resolution, 3].

    Raises:
        ValueError: An image file cannot be read.
    """
    return [_load(prompt, tokenizer, resolution) for prompt in prompts]


def _load(prompt: DocumentPrompt, tokenizer: ImageTokenizer, resolution: int) -> tuple[Document, torch.Tensor]:
    images = torch.zeros((0, 3, resolution, resolution), dtype=torch.uint8)
    if prompt.images():
        images = torch.stack([load_image(path, resolution) for path in prompt.images()])
    codes = iter(tokenizer.encode(images)) if len(images) else iter(())
    parts: list[Part] = [next(codes) if kind == "image" else value for kind, value in prompt.parts]
    limits = (prompt.seed, prompt.max_images, prompt.max_text_tokens, prompt.stop_after_image)
    return Document(tuple(parts), *limits), images.permute(0, 2, 3, 1)


def _parse(line: str, where: str, folder: Path, defaults: DocumentPrompt) -> DocumentPrompt:
    values = parse_json(line, where)
    refused = ValueError(f"{where} is {line}; accepted: {FORM}")
    if not isinstance(values, dict) or not isinstance(values.get("parts"), list):
        raise refused
    limits = {name: value for name, value in values.items() if name != "parts"}
    for name, value in limits.items():
        wanted = bool if name == "stop_after_image" else int
        if name not in (*LEAST, "stop_after_image") or type(value) is not wanted:
            raise refused
        if value < LEAST.get(name, 0):
            raise ValueError(f"{where}: {name} is {value}; accepted: {LEAST[name]} or more")
    parts = []
    for part in values["parts"]:
        if not isinstance(part, dict) or len(part) != 1 or not all(isinstance(value, str) for value in part.values()):
            raise refused
        ((kind, value),) = part.items()
        if kind not in ("text", "image"):
            raise refused
        parts.append((kind, str(folder / value) if kind == "image" else value))
    if not any(value.strip() for _, value in parts):
        raise ValueError(f"{where} has no text and no image; accepted: {FORM}")
    return replace(defaults, parts=tuple(parts), **limits)


def _described(kind: str, value: str) -> dict[str, str]:
    if kind == "text":
        return {"text": value}
    if not Path(value).is_file():
        raise ValueError(f"missing image: {value} does not exist")
    # However its path was given: the command may be run again from elsewhere.
    return {"image": str(Path(value).resolve()), "sha256": file_sha256(value)}
