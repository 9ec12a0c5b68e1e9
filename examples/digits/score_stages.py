"""Scores the stages: images of I and II, and stage III's enlargements of stage I's images and of real ones."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mars_megatron.evaluation.classifier import ImageClassifier, split
from mars_megatron.evaluation.intervals import proportion
from mars_megatron.evaluation.labels import read_labelled_images
from mars_megatron.files.plain_text import read_json
from mars_megatron.files.writing import write_text
from mars_megatron.gallery.image_folder import save_image
from mars_megatron.gallery.prompts import read_prompts
from mars_megatron.gallery.sheet import image_grid
from mars_megatron.program import exit_code
from mars_megatron.sampling import Sampler, load_for_inference

NUM_SHOWN = 8  # images of a prompt in the grids
DIRECT = "stage2, direct"
WARM = "at temperature 1"
PER_PROMPT = 5


class Score:
    """One classifier of high-resolution pictures judges everything.

    Args:
        run_dir: RUN_DIR of stages.sh.
        per_prompt: Images of each prompt.
    """

    def __init__(self, run_dir: Path, per_prompt: int) -> None:
        self.run_dir = run_dir
        self.prompts = [
            prompt for prompt in read_prompts(run_dir / "data" / "prompts.jsonl") for _ in range(per_prompt)
        ]
        self.texts = [prompt.text for prompt in self.prompts]
        self.numbers = list(range(per_prompt)) * (len(self.texts) // per_prompt)
        self.first = Sampler(load_for_inference(run_dir / "stage1"))
        self.second = self._open("stage2")
        resolution = self.second.loaded.config.image.resolution
        train, self.real = split(read_labelled_images(run_dir / "data" / "held_out", resolution))
        self.classifier = ImageClassifier(train)
        self.low = self.first.sample_each(self.texts, self.numbers)

    def _open(self, name: str) -> Sampler:
        return Sampler(load_for_inference(self.run_dir / name, groups=self.first.loaded.groups))

    def reference(self) -> dict[str, Any]:
        """The classifier on real pictures, as they are and through the image tokenizer, and stages I and II."""
        rebuilt = self.second.decode(self.second.image_tokenizer.encode(self.real.images))
        began = time.monotonic()
        direct = self.second.sample_each(self.texts, self.numbers)
        seconds = time.monotonic() - began
        # Stage I is judged at the classifier's size.
        enlarged = torch.nn.functional.interpolate(
            self.first.decode(self.low).permute(0, 3, 1, 2).float(), size=self.real.images.shape[2:], mode="bicubic"
        )
        return {
            "classifier on real pictures": self._judge(self.real.images, self.real.labels),
            "classifier on reconstructions": self._judge(rebuilt, self.real.labels),
            "stage1, enlarged": self._judge(enlarged.clamp(0, 255).byte()),
            DIRECT: {
                **self._judge(self._pictures(self.second, direct, "stage2")),
                "passes": direct.shape[1],
                "seconds": round(seconds, 1),
            },
        }

    def super_resolution(self, name: str) -> dict[str, Any]:
        """One stage III, from what stage I drew, and from real pictures."""
        sampler = self._open(name)
        image = sampler.loaded.config.image
        began = time.monotonic()
        high = sampler.upscale_each(self.texts, self.low, self.numbers)
        seconds = time.monotonic() - began
        side = image.low_resolution
        small = torch.nn.functional.interpolate(
            self.real.images.float(), size=(side, side), mode="bicubic", antialias=True
        )
        low = sampler.image_tokenizer.encode(small.clamp(0, 255).round().byte())
        settings = sampler.loaded.config.generation
        # At a low temperature the likeliest codes are drawn, and it hardly matters that K are drawn independently.
        warm = sampler.upscale_each(self.texts, self.low, self.numbers, settings=replace(settings, temperature=1.0))
        of_real = sampler.upscale_each(
            [""] * len(low), low, list(range(len(low))), settings=replace(settings, guidance=1.0)
        )
        return {
            **self._judge(self._pictures(sampler, high, name)),
            WARM: self._judge(sampler.decode(warm)),
            "from real pictures, without a prompt": self._judge(sampler.decode(of_real), self.real.labels),
            "next_k": image.next_k,
            "order": image.order,
            "passes": high.shape[1] // image.next_k,
            "seconds": round(seconds, 1),
        }

    def _pictures(self, sampler: Sampler, codes: torch.Tensor, name: str) -> torch.Tensor:
        pictures = sampler.decode(codes)
        rows: dict[str, list[Any]] = {}
        for text, picture in zip(self.texts, pictures.numpy(), strict=True):
            rows.setdefault(text, []).append(picture)
        shown = list(rows)[:: max(len(rows) // 12, 1)]
        grid = image_grid([np.stack(rows[text][:NUM_SHOWN]) for text in shown], shown)
        save_image(grid, self.run_dir / f"{name}.png")
        return pictures

    def _judge(self, images: torch.Tensor, labels: list[str] | None = None) -> dict[str, Any]:
        asked = [prompt.label for prompt in self.prompts] if labels is None else labels
        right = [found == label for found, label in zip(self.classifier.predict(images), asked, strict=True)]
        found = proportion(right)
        return {"fidelity": found.value, "low": found.low, "high": found.high, "count": found.count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run-dir", required=True, metavar="FOLDER", help="RUN_DIR of stages.sh")
    parser.add_argument("--stage3", required=True, nargs="+", metavar="NAME", help="folders of stage III below it")
    parser.add_argument(
        "--samples-per-prompt",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"images of each prompt (default: as in scores.json, else {PER_PROMPT})",
    )
    options = parser.parse_args()
    per_prompt: int | None = getattr(options, "samples_per_prompt", None)
    if per_prompt is not None and per_prompt < 1:
        parser.error(f"--samples-per-prompt is {per_prompt}; accepted: 1 or more")
    results = score_missing(Path(options.run_dir), options.stage3, per_prompt)
    for name, result in results.items():
        more = f"  {result['passes']:3d} passes, {result['seconds']} s" if "passes" in result else ""
        if WARM in result:
            more += f"  {WARM}: {result[WARM]['fidelity']:.3f}"
        print(f"{name:34}{result['fidelity']:.3f} ({result['low']:.3f} .. {result['high']:.3f}){more}")


def score_missing(run_dir: Path, stage3: Sequence[str], per_prompt: int | None) -> dict[str, Any]:
    """The results in scores.json, of the given stages III those that are not there added to it.

    Raises:
        ValueError: Those that are there are of another number of images.
    """
    output = run_dir / "scores.json"
    results: dict[str, Any] = read_json(output) if output.exists() else {}
    num_prompts = len(read_prompts(run_dir / "data" / "prompts.jsonl"))
    there = results[DIRECT]["count"] // num_prompts if results else None
    per_prompt = per_prompt or there or PER_PROMPT
    if there not in (None, per_prompt):
        raise ValueError(
            f"{output} is of {there} images of each prompt, --samples-per-prompt is {per_prompt}; "
            "delete it to score again"
        )
    missing = [name for name in stage3 if name not in results]
    if missing:
        score = Score(run_dir, per_prompt)
        if not results:
            results = score.reference()
            write_text(output, json.dumps(results, indent=2) + "\n")
        for name in missing:
            results[name] = score.super_resolution(name)
            write_text(output, json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    sys.exit(exit_code(main))
