"""What becomes of a process when the one it belongs to is killed. Real processes, of a module that is loaded alone:
torch takes seconds to import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mars_megatron.platform import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")

PARENT = """
import importlib.util, os, signal, sys

def load():
    spec = importlib.util.spec_from_file_location("processes", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

if os.fork() == 0:
    processes = load()
    {child}
    print(os.getpid(), flush=True)
    sys.stdin.read()
    print("alone", flush=True)
    os._exit(0)
signal.pause()
"""
RANK = """signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), os._exit(0)))
    processes.end_with_launcher()"""


class Pair:
    """A process, and its child whose id it prints."""

    def __init__(self, child: str, **variables: str) -> None:
        command = [sys.executable, "-c", PARENT.format(child=child), processes.__file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
        self.parent = subprocess.Popen(command, text=True, env=environment | variables, **pipes)
        self.child = int(self.parent.stdout.readline())

    def after_a_kill(self) -> str:
        """What the child says when the parent is killed, and then its input ends."""
        self.parent.kill()
        self.parent.wait()
        self.parent.stdin.close()
        return self.parent.stdout.read()


@pytest.fixture
def helper() -> Iterator[Pair]:
    pair = Pair("processes.become_helper()")
    yield pair
    pair.parent.kill()
    pair.parent.wait()


def test_a_helper_leaves_requests_to_stop_to_its_rank(helper: Pair) -> None:
    for number in processes.STOP_SIGNALS:
        os.kill(helper.child, number)
    helper.parent.stdin.close()
    assert helper.parent.stdout.readline() == "alone\n"


def test_a_helper_does_not_outlive_its_rank(helper: Pair) -> None:
    assert helper.after_a_kill() == ""


def test_the_end_of_torchrun_is_a_request_to_its_ranks() -> None:
    assert Pair(RANK, TORCHELASTIC_RUN_ID="x").after_a_kill() == "asked\n"


def test_a_process_of_its_own_goes_on_without_the_shell_that_started_it() -> None:
    assert Pair(RANK).after_a_kill() == "alone\n"


def test_torchrun_may_end_before_its_rank_has_started() -> None:
    began = "print(os.getpid(), flush=True)\n    processes.end_with_launcher(parent=-1)"
    pair = Pair(RANK.replace("processes.end_with_launcher()", began), TORCHELASTIC_RUN_ID="x")
    assert pair.parent.stdout.readline() == "asked\n"
    assert "alone" not in pair.after_a_kill(), "asked again, if its parent ends before it has ended itself"


def test_an_end_at_once_waits_for_no_thread() -> None:
    code = "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); print('said'); end(3)"
    load = "import runpy, sys; end = runpy.run_path(sys.argv[1])['exit_at_once']; "
    done = subprocess.run([sys.executable, "-c", load + code, processes.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "said\n")


@pytest.mark.parametrize(
    ("handler", "after"),
    [("signal.default_int_handler", "inside\ninterrupted\n"), ("signal.SIG_IGN", "inside\nbehind\n"),
     ("signal.SIG_DFL", "inside\n")],
)  # fmt: skip
def test_an_interruption_takes_effect_behind_the_block(handler, after):
    """It is the system's signal, whichever thread is given it."""
    code = f"""
import os, runpy, signal, sys, threading, time
interruptions_later = runpy.run_path(sys.argv[1])["interruptions_later"]
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.signal(signal.SIGINT, {handler})
try:
    with interruptions_later():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        print("inside", flush=True)
    print("behind", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, processes.__file__], capture_output=True, text=True)
    assert done.stdout == after and not done.stderr
    assert done.returncode == (-signal.SIGINT if handler.endswith("DFL") else 0)
