"""The suite of the compositional benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from examples.compositional.benchmark import ScenePrompt, check_canvases, read_canvases, read_scene_prompts
from examples.compositional.canvases import SIDE
from examples.compositional.scorer import MEASURES, SCORER_CANVASES, Judgement, Scorer
from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Estimate, share_of_groups
from mars_megatron.evaluation.suite import Result, check_least, write_grid
from mars_megatron.evaluation.texts import spread


@dataclass(frozen=True)
class Compositional:
    """Two coloured digits in a spatial relation: are the colours, the relation, the digits and their colours right?

    The benchmark is made by python -m examples.compositional.build. Scores are by split: `seen`, `unseen_combinations`
    (both pairs of digit and colour were seen, but never together in this relation) and `unseen_pairs` (no training
    canvas shows them), and by language. `colour`: both colours are there; `relation`: the things of these colours lie
    as asked for; `digit`: share of the digits that are right; `binding`: both digits are there in their colours;
    `joint`: binding and relation. What the scorer makes of real canvases that nobody was trained on, and of the same
    through the image tokenizer, stands beside them. Intervals are over prompts.

    Args:
        benchmark: Folder that python -m examples.compositional.build has written.
        samples_per_prompt: Images drawn for each prompt.
        scorer_canvases: Real training canvases that the scorer learns digits from.
        real_canvases: Real held-out canvases that the scorer itself is judged by.
        grid: PNG file for a picture of drawn images with their prompts.
        grid_prompts: Most prompts in that picture, spread evenly over all.
    """

    name: ClassVar[str] = "compositional"
    benchmark: str
    samples_per_prompt: int = 1
    scorer_canvases: int = SCORER_CANVASES
    real_canvases: int = 600
    grid: str = field(default="", metadata={"written": True})
    grid_prompts: int = 24

    def check(self) -> None:
        """See `Suite`."""
        check_least(self, samples_per_prompt=1, scorer_canvases=1, real_canvases=1, grid_prompts=1)
        read_scene_prompts(self.benchmark)
        for split in ("train", "held_out"):
            check_canvases(self.benchmark, split)

    def run(self, context: Context) -> Result:
        """Train the scorer, draw and judge.

        Raises:
            ValueError: The model draws images of another size.
        """
        resolution = context.sampler.loaded.config.image.resolution
        if resolution != SIDE:
            raise ValueError(f"compositional: the model's image.resolution is {resolution}; the benchmark has {SIDE}")
        scorer = Scorer(*read_canvases(self.benchmark, "train", self.scorer_canvases))
        prompts = read_scene_prompts(self.benchmark)
        images = context.draw([prompt.text for prompt in prompts], self.samples_per_prompt)
        self._write_grid(prompts, images)
        asked = [prompt for prompt in prompts for _ in range(self.samples_per_prompt)]
        judgements = scorer.judge(images, [prompt.scene for prompt in asked])
        scores = self._by_split(asked, judgements) | self._scorer_accuracy(context, scorer)
        return Result(scores, self._details(asked, judgements))

    def _by_split(self, asked: Sequence[ScenePrompt], judgements: Sequence[Judgement]) -> dict[str, Estimate]:
        """Every measure of every split, then of every language in it."""
        groups: dict[str, list[Judgement]] = {}
        for prompt, judgement in zip(asked, judgements, strict=True):
            groups.setdefault(prompt.split, []).append(judgement)
        for prompt, judgement in zip(asked, judgements, strict=True):
            groups.setdefault(f"{prompt.split}/{prompt.language}", []).append(judgement)
        return {
            f"{group}/{measure}": estimate
            for group, members in groups.items()
            for measure, estimate in _estimates(members, self.samples_per_prompt).items()
        }

    def _scorer_accuracy(self, context: Context, scorer: Scorer) -> dict[str, Estimate]:
        """What it makes of canvases that are what they should be."""
        images, scenes = read_canvases(self.benchmark, "held_out", self.real_canvases)
        rebuilt = context.sampler.decode(context.sampler.image_tokenizer.encode(images))
        return {
            f"scorer_{name}/{measure}": estimate
            for name, shown in (("real", images), ("reconstructed", rebuilt))
            for measure, estimate in _estimates(scorer.judge(shown, scenes), 1).items()
        }

    def _details(self, asked: Sequence[ScenePrompt], judgements: Sequence[Judgement]) -> dict[str, Any]:
        """Share of right digits by digit, and how often the two digits have each other's colour."""
        by_digit: dict[str, dict[str, list[bool]]] = {}
        exchanged: dict[str, list[bool]] = {}
        for prompt, judgement in zip(asked, judgements, strict=True):
            exchanged.setdefault(prompt.split, []).append(judgement.exchanged)
            digits = by_digit.setdefault(prompt.split, {})
            for thing, right in zip((prompt.scene.first, prompt.scene.second), judgement.digits, strict=True):
                digits.setdefault(str(thing.digit), []).append(right)
        return {
            "num_samples": len(asked),
            "digits_exchanged": {split: _share(values) for split, values in exchanged.items()},
            "digit_by_digit": {
                split: {digit: _share(values) for digit, values in sorted(digits.items())}
                for split, digits in by_digit.items()
            },
        }

    def _write_grid(self, prompts: Sequence[ScenePrompt], images: torch.Tensor) -> None:

        if self.grid:
            chosen = spread(range(len(prompts)), self.grid_prompts)
            rows = images.reshape(len(prompts), self.samples_per_prompt, *images.shape[1:])[chosen]
            write_grid([prompts[number].text for number in chosen], rows.flatten(0, 1), self.grid)


def _estimates(judgements: Sequence[Judgement], size: int) -> dict[str, Estimate]:
    """Of every measure; `size` judgements in a row are of one prompt."""

    return {
        measure: share_of_groups([float(getattr(judgement, measure)) for judgement in judgements], size)
        for measure in MEASURES
    }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
