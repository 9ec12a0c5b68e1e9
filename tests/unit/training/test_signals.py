"""A request to stop is noted once; the second one ends the process."""

from __future__ import annotations

import os
import signal

import pytest

from mars_megatron.training.signals import StopRequest

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    stop = StopRequest()
    assert stop.agreed() is False
    os.kill(os.getpid(), number)
    assert stop.agreed() is True
    assert stop.agreed() is True, "a request stays"
    other = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
    assert signal.getsignal(number) == signal.SIG_DFL, "the next one of its kind ends the process"
    assert signal.getsignal(other) == stop._note


def test_a_new_run_has_no_request() -> None:
    first = StopRequest()
    os.kill(os.getpid(), signal.SIGTERM)
    second = StopRequest()
    assert first.agreed() and not second.agreed()
