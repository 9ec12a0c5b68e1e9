"""Build the compositional benchmark: canvases of two coloured handwritten digits in a spatial relation, with captions
in English and Chinese, text for a base language model, and prompts of combinations that training has seen and not seen.

    python -m examples.compositional.build --output FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from examples.compositional import language
from examples.compositional.canvases import Painter
from examples.compositional.scenes import NUM_PAIRS, SPLITS, Division, Scene, divide
from mars_megatron.evaluation.dataclass_options import add_arguments, build, values_of
from mars_megatron.files.writing import write_text
from mars_megatron.indexing.sources.listing import CAPTIONS_FILE
from mars_megatron.program import Parser, run_program

PROMPTS_FILE = "prompts.jsonl"
CHUNK = 1000  # canvases painted at once


@dataclass(frozen=True)
class BuildSettings:
    """What is written. All of it follows from these settings.

    Args:
        canvases: Training images.
        held_out: Images of held-out handwriting, a third of them in each split.
        documents: Text documents for the base language model.
        unseen_pairs: Pairs of digit and colour, of 40, that training images and texts leave out, 2 to 20.
        unseen_share: Share of the combinations of seen pairs and relation that training leaves out.
        caption_forms: Forms of the caption in each language, 1 to 4; each also with the other digit first.
        prompts: Prompts of each split and language.
        seed: Seed of the scenes, images and texts.
    """

    canvases: int = 32000
    held_out: int = 900
    documents: int = 40000
    unseen_pairs: int = 8
    unseen_share: float = 0.2
    caption_forms: int = 1
    prompts: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("canvases", "held_out", "documents", "prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: 1 or more")
        if not 2 <= self.unseen_pairs <= NUM_PAIRS // 2:
            raise ValueError(f"unseen_pairs is {self.unseen_pairs}; accepted: 2 to {NUM_PAIRS // 2}")
        if not 0.0 < self.unseen_share < 1.0:
            raise ValueError(f"unseen_share is {self.unseen_share}; accepted: between 0 and 1")
        if not 1 <= self.caption_forms <= language.NUM_FORMS:
            raise ValueError(f"caption_forms is {self.caption_forms}; accepted: 1 to {language.NUM_FORMS}")


def write_benchmark(folder: str | Path, settings: BuildSettings, *, progress: bool = True) -> Division:
    """Write the benchmark; PROMPTS_FILE comes last, so a folder without it is not complete.

    Writes:
        train/, held_out/: image-text folders whose lines also have "scene" and "split".
        text/captions.jsonl: text documents. tokenizer.txt, symbols.txt: for the text tokenizer.
        facts.jsonl: for each prompt a question about one of its things, for the language model.
        shown_prompts.txt: some prompts to look at. settings.json: the settings and the unseen pairs.
        prompts.jsonl: lines of prompt, group (the language), split and scene.
    """
    folder = Path(folder)
    (folder / PROMPTS_FILE).unlink(missing_ok=True)
    division = divide(settings.unseen_pairs, settings.unseen_share, settings.seed)
    seen = division.scenes["seen"]
    rng = random.Random(settings.seed)
    scenes = [("seen", scene) for scene in _spread(seen, settings.canvases, rng)]
    _write_canvases(folder / "train", scenes, Painter("train", settings.seed), settings, progress)
    per_split = -(-settings.held_out // len(SPLITS))
    scenes = [(name, scene) for name in SPLITS for scene in _spread(division.scenes[name], per_split, rng)]
    painter = Painter("held_out", settings.seed + 1)
    _write_canvases(folder / "held_out", scenes[: settings.held_out], painter, settings, progress)
    texts = list(language.documents(seen, settings.documents, settings.caption_forms, settings.seed))
    _write_lines(folder / "text" / CAPTIONS_FILE, ({"text": text} for text in texts))
    write_text(folder / "tokenizer.txt", "".join(text + "\n" for text in texts))
    write_text(folder / "symbols.txt", "".join(symbol + "\n" for symbol in language.symbols()))
    prompts = list(_prompts(division, settings, rng))
    shown = {(line["split"], line["group"]): line["prompt"] for line in prompts}
    write_text(folder / "shown_prompts.txt", "".join(prompt + "\n" for prompt in shown.values()))
    unseen = [asdict(thing) for thing in division.unseen]
    write_text(folder / "settings.json", json.dumps({**asdict(settings), "unseen": unseen}, indent=2) + "\n")
    _write_lines(folder / "facts.jsonl", _facts(prompts, rng))
    _write_lines(folder / PROMPTS_FILE, prompts)
    return division


def _prompts(division: Division, settings: BuildSettings, rng: random.Random) -> Iterable[dict[str, Any]]:
    for split in SPLITS:
        for group in language.LANGUAGES:
            for scene in _spread(division.scenes[split], settings.prompts, rng):
                form, from_second = rng.randrange(settings.caption_forms), rng.random() < 0.5
                prompt = language.caption(scene, group, form, from_second)
                yield {"prompt": prompt, "group": group, "split": split, "scene": scene.to_dict()}


def _facts(prompts: Sequence[dict[str, Any]], rng: random.Random) -> Iterable[dict[str, str]]:
    for line in prompts:
        question, answer = language.question(Scene.from_dict(line["scene"]), line["group"], rng.random() < 0.5)
        yield {"prompt": f"{line['prompt']} . {question}", "answer": answer, "group": line["split"]}


def _spread(scenes: Sequence[Scene], count: int, rng: random.Random) -> list[Scene]:
    """`count` scenes in random order, each as often as any other, give or take one."""
    result: list[Scene] = []
    while len(result) < count:
        result += rng.sample(scenes, min(len(scenes), count - len(result)))
    return result


def _write_canvases(
    folder: Path, scenes: Sequence[tuple[str, Scene]], painter: Painter, settings: BuildSettings, progress: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CAPTIONS_FILE).unlink(missing_ok=True)
    lines = []
    with tqdm(
        total=len(scenes), desc=f"write {folder.name}", unit="image", disable=not progress, mininterval=0.5
    ) as bar:
        for start in range(0, len(scenes), CHUNK):
            part = scenes[start : start + CHUNK]
            images = painter.paint([scene for _, scene in part]).permute(0, 2, 3, 1).contiguous().numpy()
            for number, (image, (split, scene)) in enumerate(zip(images, part, strict=True), start=start):
                name = f"{number:06d}.png"
                Image.fromarray(image).save(folder / name)
                weights = language.captions(scene, settings.caption_forms)
                texts = [{"text": text, "weight": weight} for text, weight in weights.items()]
                lines.append({"image": name, "captions": texts, "scene": scene.to_dict(), "split": split})
                bar.update()
    _write_lines(folder / CAPTIONS_FILE, lines)


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where everything is written")
    add_arguments(parser, BuildSettings, "what is written")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    settings = build(BuildSettings, values_of(BuildSettings, options), "benchmark")
    division = write_benchmark(options.output, settings)
    counts = ", ".join(f"{name} {len(scenes)}" for name, scenes in division.scenes.items())
    print(f"{options.output}: possible scenes: {counts}; pairs never seen: {len(division.unseen)}")


def main(arguments: list[str] | None = None) -> int:
    return run_program(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
