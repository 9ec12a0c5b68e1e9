"""Shared by all tests: one thread per process, children of this checkout, no rank variables of a surrounding job,
signals that work, and time limits that grow with the load."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.support.waiting import scaled

# Before torch is imported anywhere: several test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests start is of this checkout, wherever pytest was started and whatever is installed.
_ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

# transformers copies the code of models there, by default below HOME, which may belong to somebody else.
_CODE = tempfile.TemporaryDirectory(prefix="hf_modules_")
os.environ["HF_MODULES_CACHE"] = _CODE.name

# A test that needs these sets them itself; left over from a torchrun or Slurm job they would change results.
for _name in (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
):
    os.environ.pop(_name, None)

# What ignores a signal passes that on to the programs it starts: a script to its background jobs, nohup. The programs
# that tests start must answer to signals. A handler is not passed on, and this one ignores them as before.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for _number in _SIGNALS:
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-timeout reads the marker
def pytest_runtest_protocol(item):
    """Give a test more time on a busy machine, unless the command line says how much it has."""
    if item.config.getoption("timeout") is None:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else float(item.config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(scaled(seconds)), append=False)
    return (yield)
