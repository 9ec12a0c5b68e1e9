"""What happens beside the steps: speed, and callbacks and objectives that are not the project's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mars_megatron.config.schema import RunConfig
from mars_megatron.sequence.batch import Batch
from mars_megatron.training import Trainer, trainer
from mars_megatron.training.callbacks import Callback
from mars_megatron.training.objective import Loss, NextToken, StepResult
from tests.support.metrics import configured, lines


@pytest.mark.usefixtures("one_rank")
def test_speed_is_that_of_steps_alone(base: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what happens beside them is slow: validation, checkpoints."""
    config = configured(
        base, checkpoint__dir=run_folder, checkpoint__interval=1, logging__interval=2, training__steps=5
    )
    run = Trainer(config)
    clock, tokens = SimpleNamespace(now=100.0), []
    step, save = run._step, run.save

    def stepped() -> StepResult:
        result = step()
        clock.now += 2 + run.position.step
        tokens.append(result.num_tokens)
        return result

    def saved() -> Path:
        clock.now += 1000
        return save()

    monkeypatch.setattr("mars_megatron.training.callbacks.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(run, "_step", stepped)
    monkeypatch.setattr(run, "save", saved)
    run.run()
    found = [(line["seconds_per_step"], line["tokens_per_second"]) for line in lines(run_folder)]
    expected = [(3.5, sum(tokens[:2]) / 7), (5.5, sum(tokens[2:4]) / 11), (7.0, tokens[4] / 7)]
    assert found == [pytest.approx(values) for values in expected]


@pytest.mark.usefixtures("one_rank")
def test_a_callback_is_added_to_the_list(base: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called around every step, and can end the run, which then has its checkpoint."""
    calls = []

    class Patience(Callback):
        def __init__(self, run: Trainer) -> None:
            super().__init__(run)
            calls.append(("made", run.position.step))

        def before_step(self) -> None:
            calls.append(("before", self.run.position.step))

        def after_step(self, result: StepResult) -> None:
            assert result.loss > 0
            calls.append(("after", self.run.position.step))
            self.run.stopping = self.run.position.step == 2

        def end(self) -> None:
            calls.append(("end", self.run.position.step))

    for place in (0, len(trainer.CALLBACKS)):
        folder = run_folder / str(place)
        with monkeypatch.context() as patch:
            callbacks = [*trainer.CALLBACKS[:place], Patience, *trainer.CALLBACKS[place:]]
            patch.setattr(trainer, "CALLBACKS", callbacks)
            run = Trainer(configured(base, checkpoint__dir=folder))
            run.run()
        steps = [("before", 0), ("after", 1), ("before", 1), ("after", 2)]
        assert calls == [("made", 0), *steps, ("end", 2)], place
        assert (folder / "step_00000002").is_dir() and not (folder / "finished").exists()
        assert [line["step"] for line in lines(folder)] == [1, 2]
        calls.clear()


class Hinge:
    """Losses beyond a margin; it measures which share of the targets is within it."""

    num_measures = 4

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, batch: Batch, output: Tensor) -> Loss:
        beyond = (output - self.margin).clamp(min=0)
        within = (output <= self.margin).sum()
        number = torch.tensor(len(output), dtype=torch.int, device=output.device)
        measures = [beyond.detach().sum(), within, number, torch.tensor(batch.plan.num_tokens)]
        return Loss(beyond.sum(), number, torch.stack([value.double() for value in measures]))

    def result(self, measures: list[float]) -> StepResult:
        loss, within, number, tokens = measures
        return StepResult(loss / number, None, None, int(number), int(tokens), others={"within": within / number})


@pytest.mark.usefixtures("one_rank")
def test_another_objective_is_trained_validated_and_logged(base: RunConfig, run_folder: Path) -> None:
    config = configured(base, checkpoint__dir=run_folder, training__eval_interval=6)
    losses = [Trainer(config, objective)._step().loss for objective in (NextToken(), Hinge(0.0), Hinge(4.0))]
    assert losses[0] == pytest.approx(losses[1]) and 0 < losses[2] < losses[0] - 1
    run = Trainer(config, Hinge(4.0))
    run.run()
    *train, validation = lines(run_folder)
    assert validation["split"] == "validation"
    for line in (*train, validation):
        assert "text_loss" not in line and 0 <= line["within"] <= 1
    assert train[0]["loss"] == losses[2] > train[-1]["loss"] and train[-1]["within"] > train[0]["within"]
