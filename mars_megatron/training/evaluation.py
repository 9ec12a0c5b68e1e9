"""Suites of scores on the model that is being trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.checkpoint.folders import step_folder
from mars_megatron.checkpoint.rng import rng_state, set_rng_state
from mars_megatron.config.schema import RunConfig
from mars_megatron.evaluation.jobs import make_jobs
from mars_megatron.evaluation.results import ModelIdentity
from mars_megatron.evaluation.runner import UNFINISHED, check_tokenizers, run_jobs
from mars_megatron.model.mars import MARSModel
from mars_megatron.sampling import LoadedModel, Sampler
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training.metrics import MetricsWriter


class SuitesInTraining:
    """Runs `evaluation.suites`; their results are files below evaluation/in_training, their scores metrics.

    Training goes on as if it had not been there: the random state is put back.

    Args:
        config: The run.
        vocabulary: Joined id space.
        groups: Process groups.
        model: The whole model.

    Raises:
        ValueError: An option of a suite is wrong, or an input is missing or does not fit the model.
    """

    def __init__(
        self, config: RunConfig, vocabulary: Vocabulary, groups: ProcessGroupCollection, model: MARSModel
    ) -> None:
        self.config = config
        self.jobs = make_jobs(config.evaluation.suites, "evaluation.suites")
        for job in self.jobs:
            job.suite.check()
        with _unchanged_random_state():  # a tokenizer's weights are drawn before they are loaded
            self.sampler = Sampler(LoadedModel(model, config, groups, vocabulary))
            check_tokenizers(self.jobs, self.sampler)

    def run(self, step: int, metrics: MetricsWriter) -> None:
        """Score the model as it is behind a step; every rank must call it."""
        output = step_folder(Path(self.config.checkpoint.dir) / "evaluation" / "in_training", step)
        # What an interrupted run drew here was drawn by other parameters, unless it was resumed bit for bit.
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(output / UNFINISHED, ignore_errors=True)
        torch.distributed.barrier()
        scores: dict[str, float] = {}
        with _unchanged_random_state():
            for label, report in run_jobs(
                self.jobs,
                self.sampler,
                ModelIdentity("", step, f"step {step} of a run"),
                output,
                metrics.say,
                progress=False,
            ):
                scores |= {f"{label}/{name}": score.value for name, score in report.scores.items()}
        metrics.write(step, "evaluation", scores)


@contextmanager
def _unchanged_random_state() -> Iterator[None]:
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
