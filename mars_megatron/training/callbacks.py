"""Callbacks of the loop: log, validate, sample, score, stop, save. `trainer.CALLBACKS` lists them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mars_megatron import platform
from mars_megatron.checkpoint.folders import step_folder
from mars_megatron.checkpoint.rng import rng_state, set_rng_state
from mars_megatron.evaluation.jobs import make_jobs
from mars_megatron.evaluation.results import ModelIdentity
from mars_megatron.evaluation.runner import UNFINISHED, check_tokenizers, run_jobs
from mars_megatron.gallery.sheet import image_grid
from mars_megatron.sampling import LoadedModel, Sampler, sample_images
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer
from mars_megatron.training.expert_report import expert_report
from mars_megatron.training.objective import StepResult
from mars_megatron.training.signals import StopRequest

if TYPE_CHECKING:
    from mars_megatron.training.trainer import Trainer

FINISHED = "finished"


class Callback:
    """A callback of the loop. Every rank makes the same callbacks before the first step, and calls them in the same
    order. A method that a subclass does not define does nothing.

    Args:
        run: The run, about to take its first step.

    Raises:
        ValueError: A setting, or what it names, is wrong.
    """

    def __init__(self, run: Trainer) -> None:
        self.run, self.config = run, run.config

    def before_step(self) -> None:
        """Called before every step."""

    def after_step(self, result: StepResult) -> None:
        """Called after every step, when `run.position` counts it; sets `run.stopping` to end the run after it."""

    def end(self) -> None:
        """Called after the last step, in the opposite order."""

    def due(self, interval: int) -> bool:
        """Whether something with this interval in steps, and after the last step, is due now; 0 is never."""
        return interval > 0 and (self.run.position.step % interval == 0 or self.run.is_done())


class Log(Callback):
    """Writes losses, the speed of the steps alone, learning rate and the loads of the experts."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        self.began, self.seconds, self.steps, self.tokens = 0.0, 0.0, 0, 0

    def before_step(self) -> None:
        self.began = time.monotonic()

    def after_step(self, result: StepResult) -> None:
        self.seconds += time.monotonic() - self.began
        self.steps, self.tokens = self.steps + 1, self.tokens + result.num_tokens
        if result.skipped:
            step = self.run.position.step
            self.run.metrics.say(f"step {step} changed nothing: its gradient norm is {result.grad_norm:.4g}")
        self.run.metrics.step_done()
        if self.due(self.config.logging.interval):
            speed = {"seconds_per_step": self.seconds / self.steps, "tokens_per_second": self.tokens / self.seconds}
            values = {**_losses(result), **speed, "lr": self.run.lr(), **expert_report(self.run.chunks, self.config)}
            self.run.metrics.write(self.run.position.step, "train", values)
            self.seconds, self.steps, self.tokens = 0.0, 0, 0


class Validate(Callback):
    """Writes the losses on the validation split."""

    def after_step(self, result: StepResult) -> None:
        if self.due(self.config.training.eval_interval):
            self.run.metrics.write(self.run.position.step, "validation", _losses(self.run.evaluate()))


class Sample(Callback):
    """Draws the prompts of `logging.sample_prompts`, a row each, with the same random numbers every time."""

    IMAGES_PER_PROMPT = 8

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        config = run.located
        if not config.logging.sample_interval:
            return
        self.image = config.image
        text = load_text_tokenizer(config.data.text_tokenizer)
        self.image_tokenizer = load_image_tokenizer(config.data.image_tokenizer, device=str(platform.device()))
        self.prompts = config.logging.sample_prompts
        self.ids = [text.encode(prompt) for prompt in self.prompts for _ in range(self.IMAGES_PER_PROMPT)]

    def after_step(self, result: StepResult) -> None:
        if not self.due(self.config.logging.sample_interval):
            return
        run = self.run
        codes = sample_images(run.chunks[0], self.ids, run.vocabulary, self.image.num_codes, self.config.generation)
        if torch.distributed.get_rank() == 0:
            images = self.image_tokenizer.decode(codes, (self.image.side, self.image.side))
            rows = np.split(np.asarray(torch.as_tensor(images)), len(self.prompts))
            run.metrics.write_images(run.position.step, np.asarray(image_grid(rows, self.prompts)))


class Score(Callback):
    """Runs `evaluation.suites`; their results are files below evaluation/in_training, their scores metrics.

    Training goes on as if it had not been there: the random state is put back.
    """

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        config = run.located
        if not config.evaluation.interval:
            return
        self.jobs = make_jobs(config.evaluation.suites, "evaluation.suites")
        for job in self.jobs:
            job.suite.check()
        with _unchanged_random_state():  # a tokenizer's weights are drawn before they are loaded
            self.sampler = Sampler(LoadedModel(run.chunks[0], config, run.groups, run.vocabulary))
            check_tokenizers(self.jobs, self.sampler)

    def after_step(self, result: StepResult) -> None:
        if not self.due(self.config.evaluation.interval):
            return
        step, metrics = self.run.position.step, self.run.metrics
        output = step_folder(Path(self.config.checkpoint.dir) / "evaluation" / "in_training", step)
        # What an interrupted run drew here was drawn by other parameters, unless it was resumed bit for bit.
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(output / UNFINISHED, ignore_errors=True)
        torch.distributed.barrier()
        identity = ModelIdentity("", step, f"step {step} of a run")
        scores: dict[str, float] = {}
        with _unchanged_random_state():
            for label, report in run_jobs(self.jobs, self.sampler, identity, output, metrics.say, progress=False):
                scores |= {f"{label}/{name}": score.value for name, score in report.scores.items()}
        metrics.write(step, "evaluation", scores)


class Stop(Callback):
    """Ends the run where a signal asks for it."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        self.request = StopRequest()

    def after_step(self, result: StepResult) -> None:
        if self.request.agreed():
            self.run.stopping = True

    def end(self) -> None:
        if self.run.stopping and not self.run.is_done():
            step = self.run.position.step
            kept = f"step {step} is saved" if self.run.root else "checkpoint.dir is empty, so nothing is saved"
            self.run.metrics.say(f"stopped on request after step {step}; {kept}")


class Save(Callback):
    """Writes checkpoints, and the file FINISHED, from which job scripts tell whether to queue the run again."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        self.saved = run.position.step
        # The first rank alone writes the file.
        self.marker = run.root / FINISHED if run.root and torch.distributed.get_rank() == 0 else None
        if self.marker:
            self.marker.unlink(missing_ok=True)

    def after_step(self, result: StepResult) -> None:
        if self.due(self.config.checkpoint.interval):
            self.save()

    def end(self) -> None:
        if self.saved != self.run.position.step:
            self.save()
        if self.marker and self.run.is_done():
            self.marker.touch()

    def save(self) -> None:
        """Write a checkpoint, if the run has a folder."""
        if self.run.root:
            self.run.save()
        self.saved = self.run.position.step


def _losses(result: StepResult) -> dict[str, float | None]:
    values = asdict(result)
    return values | values.pop("others")


@contextmanager
def _unchanged_random_state() -> Iterator[None]:
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
