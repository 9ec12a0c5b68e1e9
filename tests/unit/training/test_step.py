"""What a step counts."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mars_megatron.sequence.batch import MIXED, Batch, collate
from mars_megatron.sequence.samples import I2T, T2I, TASKS, TEXT_ONLY, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training.step import Stepper, StepResult, _loss
from mars_megatron.training.trainer import Interval

VOCABULARY = Vocabulary(text_size=20, codebook_size=8)
TEXT, CODES = np.array([3, 4, 5]), np.array([1, 2, 3, 4])


def batch_of(*tasks: int) -> Batch:
    samples = [make_sample(task, TEXT, None if task == TEXT_ONLY else CODES, VOCABULARY, 1) for task in tasks]
    task = tasks[0] if len(set(tasks)) == 1 else MIXED
    return collate(samples, VOCABULARY, row_multiple=4, total_rows=64, task=task)


@pytest.mark.parametrize("text_weight", [1.0, 4.0])
@pytest.mark.parametrize(
    ("tasks", "num_text", "num_visual", "num_tokens"),
    [
        # t2i: caption BOI codes, with a loss on codes and EOI
        ((T2I,), 0, 5, 8),
        # i2t: BOI codes EOI caption, with a loss on caption and EOS
        ((I2T,), 4, 0, 9),
        # text: tokens, with a loss on every token but the first, and EOS
        ((TEXT_ONLY,), 3, 0, 3),
        ((T2I, I2T, TEXT_ONLY), 7, 5, 20),
    ],
)
def test_loss_counts(
    tasks: tuple[int, ...], num_text: int, num_visual: int, num_tokens: int, text_weight: float
) -> None:
    batch = batch_of(*tasks)
    losses = torch.arange(1, num_text + num_visual + 1, dtype=torch.float32).requires_grad_()
    text_sum, visual_sum = (float(part.sum()) for part in losses.detach().split((num_text, num_visual)))
    total, num_targets, report = _loss(batch, text_weight, losses)
    assert float(total.detach()) == text_weight * text_sum + visual_sum
    assert int(num_targets) == num_text + num_visual and num_targets.dtype == torch.int
    # What is reported has no weights, so that runs compare.
    assert report[:5].tolist() == [text_sum, num_text, visual_sum, num_visual, num_tokens]
    of_tasks = dict(zip(range(len(TASKS)), report[5:].view(-1, 2).tolist(), strict=True))
    expected = {} if len(tasks) > 1 else {tasks[0]: [text_sum + visual_sum, num_text + num_visual]}
    assert {task: found for task, found in of_tasks.items() if any(found)} == expected
    assert report.dtype == torch.float64 and not report.requires_grad
    (gradient,) = torch.autograd.grad(total, losses)
    assert gradient.tolist() == [text_weight] * num_text + [1.0] * num_visual


@pytest.mark.parametrize(
    ("answer", "skipped"),
    [
        ((True, 2.0, None), None),
        ((False, 9.0, None), True),
        ((False, 3.0, None), RuntimeError),  # not above the threshold: something else is wrong
        ((False, float("nan"), None), RuntimeError),
        ((False, None, None), RuntimeError),
    ],
)
def test_a_step_above_the_gradient_norm_threshold_is_skipped(monkeypatch, answer: tuple, skipped: object) -> None:
    """Any other step that the optimiser refuses ends the run."""
    stepper = Stepper.__new__(Stepper)
    stepper.model, stepper.num_micro_batches, stepper.skip_threshold = [], 1, 3.0
    monkeypatch.setattr(stepper, "_run", lambda *_args, **_options: [])
    monkeypatch.setattr(stepper, "_result", lambda _reports, norm: replace(result(1), grad_norm=norm))
    optimizer = SimpleNamespace(zero_grad=lambda: None, step=lambda: answer)
    if skipped is RuntimeError:
        with pytest.raises(RuntimeError, match="infinite or not a number"):
            stepper.train([], optimizer)
    else:
        found = stepper.train([], optimizer)
        assert (found.skipped, found.grad_norm) == (skipped, answer[1])


def result(num_tokens: int) -> StepResult:
    return StepResult(loss=1.0, text_loss=None, visual_loss=1.0, num_targets=1, num_tokens=num_tokens)


def test_interval_without_steps_has_no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    interval = Interval()
    assert interval.rates() == {}
    interval.add(result(30))
    interval.add(result(50))
    clock.now += 4
    assert interval.rates() == {"seconds_per_step": 2.0, "tokens_per_second": 20.0}
    assert interval.rates() == {}, "asking restarts"
    interval.add(result(30))
    clock.now += 1000
    interval.restart()
    assert interval.rates() == {}, "what was counted before a restart is forgotten"
    interval.add(result(30))
    clock.now += 3
    assert interval.rates() == {"seconds_per_step": 3.0, "tokens_per_second": 10.0}
