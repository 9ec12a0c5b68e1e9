"""Workers that die, and what becomes of their records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.pool import WorkerPool
from mars_megatron.indexing.records import Refused
from mars_megatron.indexing.sources import inputs
from mars_megatron.indexing.worker import WorkerSettings
from tests.support.deadly import Deadly
from tests.support.raw import build, documents, log, write_lines
from tests.support.waiting import scaled

ROOT = Path(__file__).parents[3]


@pytest.fixture
def pool(text_model, tokenizers):
    pool = WorkerPool(WorkerSettings(BuildOptions(), str(text_model), 0, 0), tokenizers[0], 2)
    yield pool
    pool.close()


def run(pool, works):
    """(documents, reasons) of each batch."""
    done = [(tag, result) for tag, _, result in pool.map(enumerate(works))]
    assert [tag for tag, _ in done] == list(range(len(works)))
    return [(len(result.sequences), [(skip.where["line"], skip.reason) for skip in result.skips]) for _, result in done]


def test_the_record_that_kills_is_left_out(pool):
    works = [Deadly(("red",) * 3, 100 * number) for number in range(30)]
    works[7] = Deadly(("red", "die", "blue", "die", "red"), 700)
    works[9] = Deadly(("die",), 900)
    works[29] = Deadly(("die", "red"), 2900)
    found = run(pool, works)
    wanted = [(3, [])] * 30
    wanted[7] = (3, [(701, "worker_died"), (703, "worker_died")])
    wanted[9], wanted[29] = (0, [(900, "worker_died")]), (1, [(2900, "worker_died")])
    assert found == wanted


def test_a_worker_that_dies_by_itself_costs_nothing(pool, tmp_path):
    works = [Deadly(("red",) * 3) for _ in range(20)]
    works[5] = Deadly(("red", f"once {tmp_path / 'x'}", "red"))
    assert run(pool, works) == [(3, [])] * 20


def test_errors_are_passed_on(pool):
    with pytest.raises(RuntimeError, match="of a library"):
        run(pool, [Deadly(("red",)), Deadly(("error",)), Deadly(("red",))])


def test_a_worker_that_hangs_does_not_keep_an_error_waiting(pool):
    with pytest.raises(RuntimeError, match="of a library"):
        run(pool, [Deadly(("red",)), Deadly(("error",)), Deadly(("hang",)), Deadly(("hang",))])
    time.sleep(0.5)
    processes = list(pool._pool._processes.values())
    assert len(processes) == 2 and any(process.is_alive() for process in processes)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < scaled(10) and not any(process.is_alive() for process in processes)


def test_an_interruption_while_it_starts(pool, monkeypatch):
    """Threads that were not started yet cannot be joined."""

    def interrupt(thread):
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.process._ExecutorManagerThread.start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(pool, [Deadly(("red",))])
    pool.close()


def test_a_tokenizer_that_cannot_be_loaded_is_an_error(tmp_path, tokenizers):
    pool = WorkerPool(WorkerSettings(BuildOptions(), str(tmp_path / "none"), 0, 0), tokenizers[0], 1)
    try:
        with pytest.raises(ValueError, match="none does not exist"):
            run(pool, [Deadly(("red",))])
    finally:
        pool.close()


def test_bounded(pool):
    """Reading does not run ahead of the results."""
    ahead = []
    drawn = 0

    def works():
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield number, Deadly(("red",))

    for number, _, _ in pool.map(works()):
        ahead.append(drawn - number)
    assert max(ahead) <= 9


def test_a_build_with_a_deadly_record(tmp_path, tokenizers, monkeypatch):
    """The whole way: the worker is killed by an image that takes too much memory."""
    lines = write_lines(tmp_path / "x.jsonl", [{"text": "red"}, {"text": "the colour"}, {"text": "blue"}])
    monkeypatch.setattr(
        inputs,
        "read_lines",
        lambda file, json, size, *rest: iter([Deadly(("red", "die", "blue"), 1)]) if file.read(9) else None,
    )
    manifest = build(lines, tmp_path / "index", (tokenizers[0], None), workers=1)
    assert manifest.skipped == {"worker_died": 1} and log(tmp_path / "index")[0]["line"] == 2
    assert documents(tmp_path / "index", tokenizers[0]) == [("text", "red"), ("text", "blue")]
    with pytest.raises(ValueError, match="x line 2: worker_died: "):
        build(lines, tmp_path / "strict", (tokenizers[0], None), workers=1, strict=True)


def test_refused_says_both():
    assert str(Refused("too_small", "1 x 1")) == "too_small: 1 x 1"


def test_workers_that_cannot_start_are_an_error(tmp_path, text_model):
    """A script that starts them anew in each of them: it is told so, and not every record is blamed."""
    (tmp_path / "a.txt").write_text("red\n" * 50)
    script = tmp_path / "script.py"
    script.write_text(
        "from mars_megatron.indexing.build import build_index\n"
        "from mars_megatron.indexing.options import BuildOptions\n"
        f"build_index({str(tmp_path / 'a.txt')!r}, {str(tmp_path / 'index')!r}, {str(text_model)!r},\n"
        "            options=BuildOptions(workers=1), progress=False)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-W", "ignore", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "worker processes cannot be started" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("index*"))
