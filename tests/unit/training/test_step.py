"""One optimiser step: what becomes of one that the optimiser refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mars_megatron.training.objective import StepResult
from mars_megatron.training.step import Stepper

RESULT = StepResult(loss=1.0, text_loss=None, visual_loss=1.0, num_targets=1, num_tokens=1)


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
def test_a_step_above_the_gradient_norm_threshold_is_skipped(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[bool, float | None, None], skipped: object
) -> None:
    """Any other step that the optimiser refuses ends the run."""
    stepper = Stepper.__new__(Stepper)
    stepper.model, stepper.num_micro_batches, stepper.skip_threshold = [], 1, 3.0
    monkeypatch.setattr(stepper, "_run", lambda *_args, **_options: [])
    monkeypatch.setattr(stepper, "_result", lambda _measures, norm: replace(RESULT, grad_norm=norm))
    optimizer = SimpleNamespace(zero_grad=lambda: None, step=lambda: answer)
    if skipped is RuntimeError:
        with pytest.raises(RuntimeError, match="infinite or not a number"):
            stepper.train([], optimizer)
    else:
        found = stepper.train([], optimizer)
        assert (found.skipped, found.grad_norm) == (skipped, answer[1])
