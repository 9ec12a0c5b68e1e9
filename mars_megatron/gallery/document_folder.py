"""The folder that documents of texts and images are written to, and what of it is there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mars_megatron.files.plain_text import parse_json, read_json, read_lines
from mars_megatron.files.writing import write_text
from mars_megatron.gallery.image_folder import differences_of
from mars_megatron.gallery.output import save_image

RESULTS, PAGE, SETTINGS, IMAGES = "documents.jsonl", "index.html", "settings.json", "images"
_STYLE = """\
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; }
article { border-top: 1px solid #ccc; padding: 1em 0; }
.given { color: #666; }
img { min-width: 64px; image-rendering: pixelated; vertical-align: middle; margin: 0 0.3em; }
"""


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
