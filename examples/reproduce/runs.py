"""The training runs that the questions need: one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RECIPE = "examples.digits.recipes.mars"
SEEDS = (1, 2, 3)
STEPS = 1200
CURVE_INTERVAL = 100  # steps between validations
EVAL_BATCHES = 16  # of a validation
KEPT_INTERVAL = 200  # steps between checkpoints; all are kept, for the curves over steps

# Text-to-image alone.
T2I: dict[str, object] = {"data.tasks.t2i": 1.0, "data.tasks.i2t": 0.0}
# Text experts and norms trained too.
TEXT: dict[str, object] = {"freeze.text": False, "freeze.norms": False}
SHARED: dict[str, object] = {**TEXT, "model.shared_experts": True}
# Visual experts that are not initialised as copies of the text experts.
RANDOM: dict[str, object] = {"checkpoint.init_visual": "random"}
# SemVIE, the same with the text expert trained too, and one set of parameters for both modalities. The paper's visual
# experts are copies; those of a language model of this size learn images slowly, so both initialisations are here.
ARMS: dict[str, dict[str, object]] = {
    "frozen": {**T2I, **RANDOM},
    "trained": {**T2I, **TEXT, **RANDOM},
    "frozen_copied": T2I,
    "trained_copied": {**T2I, **TEXT},
    "shared": {**T2I, **SHARED},
}
# With captioning beside text-to-image, as the recipe has it; with the first seed alone. Every other batch of their
# validation is of captioning, so that twice as many hold the same pictures.
JOINT: dict[str, object] = {"training.eval_batches": 2 * EVAL_BATCHES}
JOINT_ARMS: dict[str, dict[str, object]] = {
    "joint_frozen": {**JOINT, **RANDOM},
    "joint_shared": {**JOINT, **SHARED},
}


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        name: Its folder below RUN_DIR/runs.
        arm: What is compared.
        seed: Seed of the data (order, tasks, captions) and of visual experts that begin with random values; all else
            starts from the same language model.
        settings: Dotted settings that differ from the recipe.
    """

    name: str
    arm: str
    seed: int
    settings: dict[str, object] = field(default_factory=dict)

    def options(self, run_dir: Path) -> list[str]:
        """The arguments of mars_megatron.train."""
        digits = run_dir / "digits"
        settings: dict[str, object] = {
            "data.path": digits / "index" / "images",
            "data.validation_path": digits / "index" / "held_out",
            "data.text_tokenizer": digits / "text.model",
            "data.image_tokenizer": digits / "image_tokenizer",
            "data.cache_dir": run_dir / "plans",
            "data.seed": self.seed,
            "training.seed": self.seed,
            "training.steps": STEPS,
            "training.eval_interval": CURVE_INTERVAL,
            "training.eval_batches": EVAL_BATCHES,
            "checkpoint.init_from": digits / "base",
            "checkpoint.dir": run_dir / "runs" / self.name,
            "checkpoint.interval": KEPT_INTERVAL,
            "checkpoint.keep": 0,
            "logging.progress": False,
            **self.settings,
        }
        values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
        return ["--recipe", RECIPE, *(f"--{name}={value}" for name, value in values.items())]


def all_runs() -> Iterator[Run]:
    """Every run, seeds outermost, so that a first answer is there early."""
    for seed in SEEDS:
        arms = {**ARMS, **JOINT_ARMS} if seed == SEEDS[0] else ARMS
        for arm, settings in arms.items():
            yield Run(f"{arm}_{seed}", arm, seed, settings)
