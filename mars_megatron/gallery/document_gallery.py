"""Documents of texts and images gone on with by a model, from a file into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from mars_megatron.files.hashes import file_sha256
from mars_megatron.files.plain_text import parse_json, read_json, read_lines
from mars_megatron.files.writing import write_text
from mars_megatron.gallery.cascade import model_record
from mars_megatron.gallery.image_folder import differences_of, save_image
from mars_megatron.indexing.images import load_image
from mars_megatron.platform.parallel import only_on_rank_0
from mars_megatron.sampling.load import agreed_checkpoint, load_for_inference
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.sampling.to_documents import LEAST, Document, Part
from mars_megatron.tokenizers import ImageTokenizer

FORM = (
    '{"parts": [{"text": "..."}, {"image": "a.png"}, ...]} and, optional, "seed", "max_images", "max_text_tokens" '
    '(whole numbers) and "stop_after_image" (true or false)'
)
RESULTS, PAGE, SETTINGS, IMAGES = "documents.jsonl", "index.html", "settings.json", "images"
_STYLE = """\
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; }
article { border-top: 1px solid #ccc; padding: 1em 0; }
.given { color: #666; }
img { min-width: 64px; image-rendering: pixelated; vertical-align: middle; margin: 0 0.3em; }
"""


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


class DocumentFolder:
    """Documents that were finished, in the order of their prompts.

    documents.jsonl has a line for each, {"number", "prompt", "parts"}; parts are {"text": ...} or {"image": ...}, a PNG
    file in the folder. settings.json says what they were made with; index.html shows them.

    Args:
        path: The folder; made when something is written.
        settings: What decides the results, beside the prompts; JSON values. Where its files lie does not.
        prompts: What decides the result of each document; JSON values.

    Raises:
        ValueError: It holds results of other settings or prompts.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], prompts: Sequence[dict[str, Any]]) -> None:
        self.path = Path(path)
        self.settings, self.prompts = settings, prompts
        self.lines: list[dict[str, Any]] = []
        results = self.path / RESULTS
        if results.is_file():
            self._check_settings()
            self.lines = [parse_json(line, where) for where, line in read_lines(results)]
            self._check_prompts()

    @property
    def num_finished(self) -> int:
        """How many of the first prompts have their results."""
        return len(self.lines)

    def add(self, parts: Sequence[str | torch.Tensor], given: torch.Tensor) -> None:
        """Add the next document; `save` writes it.

        Args:
            parts: Texts and images, uint8 [height, width, 3].
            given: The images of the prompt as the model got them, uint8 [images, height, width, 3].
        """
        number = len(self.lines)
        for place, image in enumerate(given):
            self._write_image(image, f"{number:04d}_given_{place}.png")
        described = [
            {"text": part} if isinstance(part, str) else {"image": self._write_image(part, f"{number:04d}_{place}.png")}
            for place, part in enumerate(parts)
        ]
        self.lines.append({"number": number, "prompt": self.prompts[number], "parts": described})

    def save(self) -> None:
        """Write the lines and the page; the images are there. Each file appears complete."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / SETTINGS, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")
        write_text(self.path / PAGE, self._page())
        write_text(self.path / RESULTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines))

    def _check_settings(self) -> None:
        file = self.path / SETTINGS
        found = read_json(file) if file.is_file() else {}
        differences = differences_of(found, self.settings)
        if differences:
            raise ValueError(
                f"{self.path} holds documents of other settings ({', '.join(differences)}); accepted: those, or "
                "another folder"
            )

    def _check_prompts(self) -> None:
        for line, prompt in zip(self.lines, self.prompts, strict=False):
            if line["prompt"] != prompt:
                raise ValueError(
                    f"{self.path} holds another document {line['number']}: {line['prompt']}, now {prompt}; accepted: "
                    "the same prompts, perhaps with more behind them, or another folder"
                )
        if len(self.lines) > len(self.prompts):
            raise ValueError(
                f"{self.path} holds {len(self.lines)} documents, more than the {len(self.prompts)} prompts; accepted: "
                "the same prompts, or another folder"
            )

    def _page(self) -> str:
        articles = "".join(self._article(line) for line in self.lines)
        return (
            f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Documents</title>\n<style>\n{_STYLE}</style>\n{articles}'
        )

    def _article(self, line: dict[str, Any]) -> str:
        number, places = line["number"], iter(range(len(line["prompt"]["parts"])))
        given = [
            escape(part["text"]) if "text" in part else _picture(f"{IMAGES}/{number:04d}_given_{next(places)}.png")
            for part in line["prompt"]["parts"]
        ]
        added = [escape(part["text"]) if "text" in part else _picture(part["image"]) for part in line["parts"]]
        return f'<article>\n<span class="given">{"".join(given)}</span> {"".join(added)}\n</article>\n'

    def _write_image(self, image: torch.Tensor, name: str) -> str:
        save_image(Image.fromarray(image.numpy()), self.path / IMAGES / name)
        return f"{IMAGES}/{name}"


def _picture(source: str) -> str:
    return f'<img src="{escape(source)}" alt="">'


def interleave(
    checkpoint: str | Path,
    prompts: Sequence[DocumentPrompt],
    output: str | Path,
    *,
    tensor: int | None = None,
    overrides: Sequence[str] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> DocumentFolder:
    """Go on with documents, a batch at a time; those that the folder holds already are left as they are.

    Every rank must call it; rank 0 writes.

    Args:
        checkpoint, tensor, overrides, device: See `load_for_inference`.
        prompts: The documents.
        output: The folder.
        progress: Show progress bars on rank 0.

    Raises:
        ValueError: A wrong setting, prompt or image, or the folder holds other results.
    """
    chosen = agreed_checkpoint(checkpoint, device)
    loaded = load_for_inference(chosen, tensor, overrides, device=device)
    sampler, resolution, settings = Sampler(loaded), loaded.config.image.resolution, loaded.config.generation
    # Neither decides what is sampled; seeds and lengths are those of the prompts.
    others = ("batch_size", "seed", "max_caption_tokens")
    decisive = {name: value for name, value in asdict(settings).items() if name not in others}

    def opened() -> DocumentFolder:
        described = [prompt.described() for prompt in prompts]
        return DocumentFolder(output, {**model_record(chosen, sampler), **decisive}, described)

    def loaded_documents(start: int) -> list[tuple[Document, torch.Tensor]]:
        part = prompts[start : start + settings.batch_size]
        return load_documents(part, sampler.image_tokenizer, resolution)

    # Other hosts may see other files, and encode an image to other codes.
    folder = only_on_rank_0(opened)
    for start in range(folder.num_finished, len(prompts), settings.batch_size):
        part = only_on_rank_0(partial(loaded_documents, start))
        results = sampler.continue_documents([document for document, _ in part], progress=progress)
        if torch.distributed.get_rank() == 0:
            for parts, (_, given) in zip(results, part, strict=True):
                folder.add(_decoded(parts, sampler), given)
            folder.save()
    return folder


def _decoded(parts: Sequence[Part], sampler: Sampler) -> list[str | torch.Tensor]:
    """The same with pixels, uint8 [height, width, 3], in place of codes."""
    return [part if isinstance(part, str) else sampler.decode(part[None])[0] for part in parts]
