"""What the ranks of test_evaluation.py do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from mars_megatron import platform
from mars_megatron.config import from_yaml
from mars_megatron.config.parser import override
from mars_megatron.evaluation.context import score_shared
from mars_megatron.evaluation.fid import Fid
from mars_megatron.evaluation.frechet import FeatureSums
from mars_megatron.evaluation.jobs import make_jobs
from mars_megatron.evaluation.runner import evaluate
from mars_megatron.evaluation.t2i_compbench.compbench import T2ICompBench
from mars_megatron.training import Trainer
from tests.support.small_context import SmallContext


def score(folder: str) -> dict[str, Any]:
    """Scores of the same images on any number of ranks.

    Args:
        folder: Has images (of 8x8 pixels), prompts.txt of seven prompts and scorer.py.
    """
    platform.initialize("cpu")
    platform.init_process_group()
    shape = (7, 8, 8, 3)
    drawn = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = SimpleNamespace(image=SimpleNamespace(resolution=8))
    context = SmallContext(SimpleNamespace(loaded=SimpleNamespace(config=config)), drawn)
    cache = f"{folder}/cache_of_{torch.distributed.get_world_size()}"
    prompts = f"{folder}/prompts.txt"
    fid = Fid(f"{folder}/images", prompts=prompts, extractor="pixels", feature_batch_size=2, cache=cache)
    first, kept = fid.run(context), fid.run(context)
    own = T2ICompBench((prompts,), scorer=f"{folder}/scorer.py:brightness", samples_per_prompt=1, judge_batch_size=2)
    few = FeatureSums()
    if torch.distributed.get_rank() == 0:  # the others have seen nothing
        few.add(drawn.flatten(1).float())
    return {
        "frechet": first.scores["frechet_pixels"].value,
        "kept": kept.scores["frechet_pixels"].value,
        "between_halves": first.details["between_halves_of_reference"],
        "statistics": len(list(Path(cache).iterdir())),
        "brightness": own.run(context).scores["prompts_brightness"].value,
        "shared": score_shared(7, lambda numbers: [number * number for number in numbers]),
        "none": score_shared(0, lambda numbers: []),
        "few": few.reduce(platform.device()).moments().mean.tolist(),
    }


def run_suites(checkpoint: str, suites: dict[str, Any], output: str, tensor: int) -> dict[str, float]:
    """Scores of a checkpoint by the suites of a mapping."""
    reports = evaluate(checkpoint, make_jobs(suites, "test"), output, tensor=tensor, device="cpu", say=lambda _: None)
    return {
        f"{label}/{name}": score.value for label, report in reports.items() for name, score in report.scores.items()
    }


def train_with_suites(settings: list[str], config: str) -> dict[str, float]:
    """Last scores of a run that evaluates as it goes."""
    run = override(from_yaml(config), settings)
    Trainer(run).run()
    lines = Path(run.checkpoint.dir, "metrics.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if line["split"] == "evaluation"]
    assert [line.pop("step") for line in found] == [2, 4]
    return {name: value for name, value in found[-1].items() if name != "split"}
