"""What happens beside the steps of a run, a class for each thing; `trainer.CALLBACKS` lists them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from mars_megatron.training.expert_report import expert_report
from mars_megatron.training.objective import StepResult
from mars_megatron.training.signals import StopRequest

if TYPE_CHECKING:
    from mars_megatron.training.trainer import Trainer

FINISHED = "finished"


class Callback:
    """Something beside the steps of a run. Every rank makes the same ones before the first step, and calls them in the
    same order. A method that a callback does not have does nothing.

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
        """Called after every step, when `run.position` counts it; sets `run.stopping` to end the run behind it."""

    def end(self) -> None:
        """Called after the last step, in the opposite order."""

    def due(self, interval: int) -> bool:
        """Whether what comes every `interval` steps, and behind the last, comes now; 0 is never."""
        return interval > 0 and (self.run.position.step % interval == 0 or self.run.is_done())


class Log(Callback):
    """Writes losses, speed, learning rate and the loads of the experts."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        self.speed = Speed()

    def before_step(self) -> None:
        self.speed.begin()

    def after_step(self, result: StepResult) -> None:
        self.speed.end(result.num_tokens)
        if result.skipped:
            step = self.run.position.step
            self.run.metrics.say(f"step {step} changed nothing: its gradient norm is {result.grad_norm:.4g}")
        self.run.metrics.step_done()
        if self.due(self.config.logging.interval):
            experts = expert_report(self.run.chunks, self.config)
            values = {**_losses(result), **self.speed.rates(), "lr": self.run.lr(), **experts}
            self.run.metrics.write(self.run.position.step, "train", values)


class Validate(Callback):
    """Writes the losses on the validation split."""

    def after_step(self, result: StepResult) -> None:
        if self.due(self.config.training.eval_interval):
            self.run.metrics.write(self.run.position.step, "validation", _losses(self.run.evaluate()))


class Sample(Callback):
    """Draws the grid of sampled images."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        if self.config.logging.sample_interval:
            from mars_megatron.training.samples import SampleGrid  # the tokenizers' libraries take seconds to import

            self.grid = SampleGrid(run.located, run.vocabulary)

    def after_step(self, result: StepResult) -> None:
        if self.due(self.config.logging.sample_interval):
            self.run.metrics.write_images(self.run.position.step, self.grid.draw(self.run.chunks[0]))


class Score(Callback):
    """Runs the suites of scores."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run)
        if self.config.evaluation.interval:
            from mars_megatron.training.evaluation import SuitesInTraining

            self.suites = SuitesInTraining(run.located, run.vocabulary, run.groups, run.chunks[0])

    def after_step(self, result: StepResult) -> None:
        if self.due(self.config.evaluation.interval):
            self.suites.run(self.run.position.step, self.run.metrics)


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
        # The first rank alone writes the file.
        self.marker = run.root / FINISHED if run.root and torch.distributed.get_rank() == 0 else None
        if self.marker:
            self.marker.unlink(missing_ok=True)

    def after_step(self, result: StepResult) -> None:
        due = self.due(self.config.checkpoint.interval) or self.run.is_done() or self.run.stopping
        if due and self.run.root:
            self.run.save()

    def end(self) -> None:
        if self.marker and self.run.is_done():
            self.marker.touch()


class Speed:
    """Time and tokens of steps alone: what happens beside them must not look like slow steps."""

    def __init__(self) -> None:
        self._began = self._seconds = 0.0
        self._steps = self._tokens = 0

    def begin(self) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def end(self, num_tokens: int) -> None:
        """It is done."""
        self._seconds += time.monotonic() - self._began
        self._steps += 1
        self._tokens += num_tokens

    def rates(self) -> dict[str, float]:
        """Seconds per step and tokens per second of the steps since the last call."""
        rates = {"seconds_per_step": self._seconds / self._steps, "tokens_per_second": self._tokens / self._seconds}
        self._seconds, self._steps, self._tokens = 0.0, 0, 0
        return rates


def _losses(result: StepResult) -> dict[str, float | None]:
    values = asdict(result)
    return values | values.pop("others")
