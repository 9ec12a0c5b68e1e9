"""Files of prompts, and which images they ask for, each with all that decides it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mars_megatron.config import validate
from mars_megatron.config.parser import build
from mars_megatron.config.schema import GenerationConfig, RunConfig
from mars_megatron.files.plain_text import parse_json, read_lines

# Settings of generation that decide an image, beside its seed.
DECISIVE = ("guidance", "guidance_schedule", "temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Args:
        text: What is asked for.
        label: What a classifier shall see in the image; empty if unknown.
        group: What results are reported by, such as a language; empty if none.
    """

    text: str
    label: str = ""
    group: str = ""


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a file with one prompt per line: {"prompt": ..., "label": ..., "group": ...} in a .jsonl file, plain
    text in any other.

    Raises:
        ValueError: The file is missing or has no prompt, or a line is not of that form.
    """
    lines = prompt_lines(path)
    if Path(path).suffix != ".jsonl":
        return [Prompt(line) for _, line in lines]
    return [parse_prompt(line, where)[0] for where, line in lines]


def prompt_lines(path: str | Path) -> list[tuple[str, str]]:
    """The lines of a file that are not empty, each with its place, "FILE line NUMBER".

    Raises:
        ValueError: The file is missing, is not UTF-8, or has no such line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"prompts {path} is not a file; give one with a prompt on each line")
    lines = [(where, line.strip()) for where, line in read_lines(path, "prompts")]
    if not lines:
        raise ValueError(f"prompts {path} is empty; give one prompt on each line")
    return lines


def parse_prompt(line: str, where: str, others: Sequence[str] = ()) -> tuple[Prompt, dict[str, Any]]:
    """The prompt of a JSON line, and those of the `others` that stand beside it.

    Raises:
        ValueError: The line is not of that form; it is named by `where`.
    """
    values = parse_json(line, where)
    wanted = '{"prompt": "...", "label": "...", "group": "..."} with strings, label and group optional'
    if others:
        wanted += f"; beside them {', '.join(others)}"
    if not isinstance(values, dict) or not values.get("prompt"):
        raise ValueError(f"{where} has no prompt; accepted: {wanted}")
    further = {name: values.pop(name) for name in others if name in values}
    fields = {"prompt": "text", "label": "label", "group": "group"}
    if not values.keys() <= fields.keys() or not all(isinstance(value, str) for value in values.values()):
        raise ValueError(f"{where} is {line}; accepted: {wanted}")
    return Prompt(**{fields[name]: value for name, value in values.items()}), further


@dataclass(frozen=True)
class ImageRequest:
    """The images of one prompt.

    Args:
        prompt: What is asked for.
        num_images: How many; None for the number asked for of all.
        seed: Their seed; None for that of all.
        settings: `DECISIVE` settings of generation in place of those of all.
        where: The line that it comes from, for errors.
    """

    prompt: Prompt
    num_images: int | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: str = "the prompt"


@dataclass(frozen=True)
class PlannedImage:
    """One image, with all that decides it beside the model.

    Args:
        file: Where it is written in the folder.
        prompt: What is asked for.
        seed: Its seed.
        numbers: Number of each candidate, see `sample_images`; the best of them is kept.
        settings: Of generation.
    """

    file: str
    prompt: Prompt
    seed: int
    numbers: tuple[int, ...]
    settings: GenerationConfig

    def described(self) -> dict[str, Any]:
        """The same as JSON values."""
        prompt = self.prompt
        texts = {"prompt": prompt.text, "label": prompt.label, "group": prompt.group}
        return {
            "file": self.file,
            **{name: text for name, text in texts.items() if text or name == "prompt"},
            "seed": self.seed,
            "candidates": list(self.numbers),
            "settings": decisive(self.settings),
        }

    @classmethod
    def from_description(cls, values: Mapping[str, Any], base: GenerationConfig) -> PlannedImage:
        """What `described` gave; other settings are those of `base`."""
        prompt = Prompt(values["prompt"], values.get("label", ""), values.get("group", ""))
        settings = replace(base, **values["settings"])
        return cls(values["file"], prompt, values["seed"], tuple(values["candidates"]), settings)


def decisive(settings: GenerationConfig) -> dict[str, Any]:
    """The `DECISIVE` ones, by name."""
    return {name: value for name, value in asdict(settings).items() if name in DECISIVE}


def read_requests(path: str | Path) -> list[ImageRequest]:
    """Read a file of prompts: plain lines, or a .jsonl file as `read_prompts` takes it, in whose lines "num_images",
    "seed" and the `DECISIVE` settings may stand too.

    Raises:
        ValueError: See `read_prompts`; or num_images or seed is not accepted.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        return [ImageRequest(Prompt(line), where=where) for where, line in prompt_lines(path)]
    return [_parse(line, where) for where, line in prompt_lines(path)]


def plan_images(
    requests: Sequence[ImageRequest], num_images: int, best_of: int, config: RunConfig
) -> list[list[PlannedImage]]:
    """The images of each request.

    Files are named by the place of the request and of the image in it. Requests that are the same in prompt, seed and
    settings get further numbers, and so other images; with other settings they get the same random numbers.

    Args:
        requests: What is asked for.
        num_images: Images of each prompt that does not say.
        best_of: Candidates sampled for each image.
        config: Has the settings where requests do not say.

    Raises:
        ValueError: A setting of a request is not accepted.
    """
    known: dict[str, GenerationConfig] = {}
    seen: Counter[tuple[Any, ...]] = Counter()
    planned_images = []
    for place, request in enumerate(requests):
        key = json.dumps(request.settings, sort_keys=True)
        if key not in known:
            known[key] = _with_settings(config, request)
        seed = config.generation.seed if request.seed is None else request.seed
        count = request.num_images or num_images
        same = (request.prompt.text, seed, known[key])
        first = seen[same]
        seen[same] += count * best_of
        planned_images.append(
            [
                PlannedImage(
                    f"images/{place:04d}_{image:02d}.png",
                    request.prompt,
                    seed,
                    tuple(range(first + image * best_of, first + (image + 1) * best_of)),
                    known[key],
                )
                for image in range(count)
            ]
        )
    return planned_images


def _with_settings(config: RunConfig, request: ImageRequest) -> GenerationConfig:
    changed = build(config, {"generation": dict(request.settings)}, source=request.where)
    try:
        return validate(changed).generation
    except ValueError as error:
        raise ValueError(f"{request.where}: {error}") from error


def _parse(line: str, where: str) -> ImageRequest:
    prompt, others = parse_prompt(line, where, ("num_images", "seed", *DECISIVE))
    whole = {name: others.pop(name, None) for name in ("num_images", "seed")}
    for name, least in (("num_images", 1), ("seed", 0)):
        if whole[name] is not None and (type(whole[name]) is not int or whole[name] < least):
            raise ValueError(f"{where}: {name} is {whole[name]!r}; accepted: a whole number, {least} or more")
    for name, value in others.items():
        if name != "guidance_schedule" and type(value) not in (int, float):
            raise ValueError(f"{where}: {name} is {value!r}; accepted: a number")
    return ImageRequest(prompt, **whole, settings=others, where=where)
