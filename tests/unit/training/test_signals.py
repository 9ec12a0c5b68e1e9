"""A request to stop is noted once; the second one ends the process."""

from __future__ import annotations

import os
import signal

import pytest

from mars_megatron.training.signals import SAME_REQUEST_SECONDS, StopRequest

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    stop = StopRequest()
    assert stop.agreed() is False
    os.kill(os.getpid(), number)
    assert stop.agreed() is True
    assert stop.agreed() is True, "a request stays"


@pytest.mark.parametrize(("later", "ends"), [(0.5, False), (SAME_REQUEST_SECONDS + 1, True)])
def test_only_a_later_signal_ends_the_process(later: float, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launcher and scheduler may both pass on one request; who asks again later means it."""
    now = 100.0
    monkeypatch.setattr("mars_megatron.training.signals.time.monotonic", lambda: now)
    raised = []
    monkeypatch.setattr("mars_megatron.training.signals.signal.raise_signal", raised.append)
    stop = StopRequest()
    stop._note(signal.SIGTERM, None)
    now += later
    stop._note(signal.SIGTERM, None)
    assert stop.agreed() is True
    assert (raised == [signal.SIGTERM], signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == (ends, ends)


@pytest.mark.parametrize(("launched", "heard"), [(False, False), (True, True)])
def test_nohup_is_heeded_outside_of_a_launcher(launched: bool, heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun catches SIGHUP, also under nohup, and passes it on: who ignores it then is killed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr("mars_megatron.training.signals.launched", lambda: launched)
    stop = StopRequest()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.agreed() is heard


def test_a_new_run_has_no_request() -> None:
    first = StopRequest()
    os.kill(os.getpid(), signal.SIGTERM)
    second = StopRequest()
    assert first.agreed() and not second.agreed()
