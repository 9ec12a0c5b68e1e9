"""examples/index_data.sh: the shares of an array's tasks, and a build through it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mars_megatron.data.store import Store
from tests.support.small_index import lines, text_model

__all__ = ["lines", "text_model"]

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "index_data.sh"


def start(*arguments, **knobs):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"PYTHON": sys.executable, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment | {name: str(value) for name, value in knobs.items()},
        capture_output=True,
        text=True,
    )


def dry(*arguments, **knobs):
    base = {"INPUT": "my shards/*.tar", "OUTPUT": "corpus/train", "TEXT_TOKENIZER": "text.model", "DEVICE": "cpu"}
    done = start(*arguments, **base | knobs, DRY_RUN=1)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def test_alone_it_builds_everything():
    command = dry("--strict")
    assert command[1:5] == ["tools/index_data.py", "build", "--input", "my shards/*.tar"]
    assert "--shard" not in command and "--image-tokenizer" not in command and command[-1] == "--strict"
    images = dry(IMAGE_TOKENIZER="vq", RESOLUTION=256)
    assert images[images.index("--resolution") + 1] == "256" and images[images.index("--device") + 1] == "cpu"


def test_a_task_of_an_array_takes_its_share():
    slurm = {"SLURM_ARRAY_TASK_ID": 3, "SLURM_ARRAY_TASK_COUNT": 8, "SLURM_CPUS_ON_NODE": 12}
    slurm["SLURM_SUBMIT_DIR"] = ROOT
    command = dry(**slurm)
    assert command[command.index("--shard") + 1] == "3/8" and command[command.index("--workers") + 1] == "12"
    slurm["SLURM_ARRAY_TASK_MAX"] = 7
    assert dry(**slurm) == command
    again = dry(**slurm | {"SLURM_ARRAY_TASK_COUNT": 2, "SLURM_ARRAY_TASK_MAX": 5}, TASKS=8)
    assert again[again.index("--shard") + 1] == "3/8"
    alone = {"SLURM_ARRAY_TASK_ID": 0, "SLURM_ARRAY_TASK_COUNT": 1, "SLURM_ARRAY_TASK_MAX": 0, "SLURM_SUBMIT_DIR": ROOT}
    command = dry(**alone)  # a merge of shards follows
    assert command[command.index("--shard") + 1] == "0/1"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"INPUT": ""}, "INPUT is empty"),
        ({"OUTPUT": ""}, "OUTPUT is empty"),
        ({"TASK": 8, "TASKS": 8}, "TASK is '8' of TASKS '8'; accepted: from 0 to TASKS - 1"),
        (
            {
                "SLURM_ARRAY_TASK_ID": 0,
                "SLURM_ARRAY_TASK_COUNT": 2,
                "SLURM_ARRAY_TASK_MAX": 5,
                "SLURM_SUBMIT_DIR": ROOT,
            },
            "TASKS is '2', but the array goes up to task 5; for some tasks alone give the number of all",
        ),
        ({"IMAGE_TOKENIZER": "vq"}, "RESOLUTION is ''; with IMAGE_TOKENIZER it must be a number of pixels"),
        ({"RESOLUTION": "64"}, "RESOLUTION is '64', but IMAGE_TOKENIZER is empty"),
        ({"PYTHON": "nowhere"}, "run bash examples/setup.sh first"),
        ({"ROOT": "/"}, "ROOT is '/', which is not the repository"),
    ],
)
def test_what_is_wrong_is_named(knobs, message):
    base = {"INPUT": "a", "OUTPUT": "b", "TEXT_TOKENIZER": "c"}
    done = start(**base | knobs)
    assert done.returncode == 2 and message in done.stderr


def test_two_tasks_and_a_merge(tmp_path, text_model, lines):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("\n".join(lines[number * 5 : number * 5 + 5]) + "\n", encoding="utf-8")
    knobs = {"INPUT": tmp_path / "*.txt", "OUTPUT": tmp_path / "index", "TEXT_TOKENIZER": text_model, "TASKS": 2}
    for task in range(2):
        done = start("--workers", "0", "--no-progress", **knobs, TASK=task)
        assert done.returncode == 0, done.stderr
        assert "merge --output" in done.stdout
    merge = [sys.executable, "tools/index_data.py", "merge", "--output", str(tmp_path / "index"), "--no-progress"]
    subprocess.run(merge, cwd=ROOT, check=True, capture_output=True)
    assert Store(tmp_path / "index").num_documents == 15
