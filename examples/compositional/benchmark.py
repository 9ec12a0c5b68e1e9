"""Reading a folder that python -m examples.compositional.build has written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from examples.compositional.build import PROMPTS_FILE
from examples.compositional.canvases import SIDE
from examples.compositional.scenes import SPLITS, Scene
from mars_megatron.files.plain_text import parse_json, read_lines
from mars_megatron.indexing.images import load_images
from mars_megatron.indexing.sources import CAPTIONS_FILE


@dataclass(frozen=True)
class ScenePrompt:
    """One prompt.

    Args:
        text: What is asked for.
        language: In which language.
        split: One of SPLITS.
        scene: What the image must show.
    """

    text: str
    language: str
    split: str
    scene: Scene


def read_scene_prompts(folder: str | Path) -> list[ScenePrompt]:
    """The prompts of a benchmark folder.

    Raises:
        ValueError: They are missing or of another form.
    """
    prompts = []
    for where, values in _lines(Path(folder) / PROMPTS_FILE):
        text, language, split = (values.get(name) for name in ("prompt", "group", "split"))
        if not (isinstance(text, str) and isinstance(language, str) and split in SPLITS):
            raise ValueError(f"{where} needs prompt, group and split (one of {', '.join(SPLITS)})")
        prompts.append(ScenePrompt(text, language, split, _scene(values, where)))
    return prompts


def read_canvases(folder: str | Path, split: str, most: int) -> tuple[torch.Tensor, list[Scene]]:
    """Real canvases, spread evenly over a folder.

    Args:
        folder: The benchmark.
        split: "train" or "held_out".
        most: Most canvases read.

    Returns:
        uint8 [N, 3, SIDE, SIDE], and what each shows.

    Raises:
        ValueError: They are missing or cannot be read.
    """
    root = Path(folder) / split
    lines = list(_lines(root / CAPTIONS_FILE))
    lines = lines[:: max(1, -(-len(lines) // most))]
    scenes = [_scene(values, where) for where, values in lines]
    images, unreadable = load_images([root / str(values.get("image")) for _, values in lines], SIDE, progress=False)
    if unreadable:
        raise ValueError(f"{len(unreadable)} canvases cannot be read, first {unreadable[0][0]}: {unreadable[0][1]}")
    return images, scenes


def check_canvases(folder: str | Path, split: str) -> None:
    """Whether a folder of canvases is there and tells what they show.

    Raises:
        ValueError: It does not.
    """
    for where, values in _lines(Path(folder) / split / CAPTIONS_FILE):
        _scene(values, where)


def _scene(values: dict[str, Any], where: str) -> Scene:
    try:
        return Scene.from_dict(values.get("scene") or {})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, values) of a JSONL file.

    Raises:
        ValueError: It is missing, empty, or has a line that is no JSON object.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a folder that python -m examples.compositional.build has written")
    lines = list(read_lines(path))
    if not lines:
        raise ValueError(f"{path} is empty; give a folder that python -m examples.compositional.build has written")
    for where, line in lines:
        values = parse_json(line, where)
        if not isinstance(values, dict):
            raise ValueError(f"{where} is {line}; accepted: a JSON object")
        yield where, values
