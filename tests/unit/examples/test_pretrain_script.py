"""examples/pretrain_mars.sh: what it runs, what it refuses before anything starts, and a run through it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.corpus import CODEBOOK_SIZE, TEXT_SIZE, write_corpus

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "pretrain_mars.sh"

# Stands in for Slurm's srun: the tasks of N nodes, all on this machine.
SRUN = r"""#!/usr/bin/env bash
while [[ $1 == --* ]]; do
    case $1 in
        --nodes) nodes=$2; shift 2 ;;
        --ntasks-per-node) shift 2 ;;
        *) shift ;;
    esac
done
for ((node = 0; node < nodes; node++)); do SLURM_NODEID=$node "$@" & tasks+=($!); done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""


@pytest.fixture
def index(tmp_path):
    """Files that look like an index, with a space in their name."""
    for suffix in ("bin", "idx", "json"):
        (tmp_path / f"my corpus.{suffix}").touch()
    return str(tmp_path / "my corpus")


@pytest.fixture
def slurm(tmp_path):
    """Environment of a job on two nodes, with stand-ins for srun and scontrol."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\nprintf '127.0.0.1\\nother\\n'\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "20007",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }


def start(*arguments, script=SCRIPT, **knobs):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"PYTHON": sys.executable, "DRY_RUN": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        ["bash", str(script), *arguments],
        env=environment | {name: str(value) for name, value in knobs.items()},
        capture_output=True,
        text=True,
    )


def dry(*arguments, **knobs):
    """The command that would run, as its words."""
    done = start(*arguments, **knobs)
    assert done.returncode == 0, done.stderr
    folder, command = done.stdout.splitlines()
    assert shlex.split(folder) == ["cd", str(ROOT)]
    return shlex.split(command)


def refused(*arguments, **knobs):
    done = start(*arguments, **knobs)
    assert done.returncode != 0 and not done.stdout
    return done.stderr


@pytest.mark.parametrize("script", sorted([*ROOT.glob("examples/*.sh"), ROOT / "tests/run.sh", ROOT / ".ci/run"]))
def test_scripts_are_clean(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is in requirements-dev.txt"
    # From the root: with -x it follows what a script sources.
    done = subprocess.run([shellcheck, "-x", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_one_cpu_node_is_a_torchrun(index):
    command = dry("--training.steps", "20", DEVICE="cpu", RECIPE="tiny", DATA_PATH=index, OUTPUT="runs/x y", STEPS=9)
    program = command.index("mars_megatron.train")
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    assert command[:program] == [sys.executable, *torchrun]
    assert command[program + 1 :] == [
        *("--recipe", "tiny", "--data.path", index, "--checkpoint.dir", "runs/x y"),
        *("--checkpoint.interval", "1000", "--training.device", "cpu", "--training.steps", "9"),
        *("--training.steps", "20"),
    ]


def test_the_default_is_stage_one_on_gpus(index):
    command = dry(DATA_PATH=index, INIT_FROM="random", NNODES=8, RANKS_PER_NODE=8)
    text = " ".join(command)
    assert "--recipe mars_7b_stage1" in text and "--training.device cuda" in text and "init_from" not in text


def test_a_blend_is_named_by_the_config(tmp_path):
    config = tmp_path / "blend.yaml"
    config.write_text("data: {blend: [{path: a, weight: 0.7}, {path: b}]}\n")
    command = dry(DATA_PATH="", CONFIG=config, DEVICE="cpu", RECIPE="tiny")
    assert "--data.path" not in command and command[command.index("--config") + 1] == str(config)


def test_slurm_starts_one_torchrun_on_each_node(index, slurm):
    command = dry(DATA_PATH=index, INIT_FROM="random", RANKS_PER_NODE=8, **slurm)
    assert command[0] == "srun" and "--kill-on-bad-exit=1" in command
    text = " ".join(command)
    assert "--nodes 2 --ntasks-per-node 1" in text and "PET_NODE_RANK=$SLURM_NODEID" in text
    assert "--nproc-per-node 8 --nnodes 2 --master-addr 127.0.0.1 --master-port 20007" in text


def test_knobs_become_settings(index, tmp_path):
    (tmp_path / "init").mkdir()
    (tmp_path / "more.yaml").write_text("optimizer: {lr: 0.002}")
    command = dry(
        DEVICE="cpu",
        RECIPE="tiny",
        DATA_PATH=index,
        RANKS_PER_NODE=8,
        TENSOR=2,
        PIPELINE=2,
        EXPERT=2,
        INIT_FROM=tmp_path / "init",
        CONFIG=tmp_path / "more.yaml",
        TEXT_TOKENIZER=tmp_path / "init",
        IMAGE_TOKENIZER=tmp_path / "init",
    )
    values = dict(zip(command, command[1:], strict=False))
    assert values["--parallel.tensor"] == values["--parallel.pipeline"] == values["--parallel.expert"] == "2"
    assert values["--checkpoint.init_from"] == values["--data.text_tokenizer"] == str(tmp_path / "init")
    assert values["--data.image_tokenizer"] == str(tmp_path / "init")
    assert values["--config"] == str(tmp_path / "more.yaml") and values["--nproc-per-node"] == "8"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"DATA_PATH": ""}, "DATA_PATH is empty"),
        ({"DATA_PATH": "/nowhere/corpus"}, "DATA_PATH is '/nowhere/corpus.bin', which does not exist"),
        ({"CONFIG": "/nowhere.yaml"}, "CONFIG is '/nowhere.yaml', which does not exist"),
        ({"INIT_FROM": "/nowhere"}, "INIT_FROM is '/nowhere', which does not exist"),
        ({"TEXT_TOKENIZER": "/nowhere"}, "TEXT_TOKENIZER is '/nowhere', which does not exist"),
        ({"IMAGE_TOKENIZER": "/nowhere"}, "IMAGE_TOKENIZER is '/nowhere', which does not exist"),
        ({"PYTHON": "/nowhere/python"}, "run bash examples/setup.sh first"),
        ({"ROOT": "/nowhere"}, "ROOT is '/nowhere', which is not the repository"),
        ({"RECIPE": "mars_7b_stage1", "INIT_FROM": ""}, "the frozen text expert of mars_7b_stage1 would be random"),
        ({"DEVICE": "tpu"}, "DEVICE is 'tpu'; accepted: cuda, cpu"),
        ({"RANKS_PER_NODE": "0"}, "RANKS_PER_NODE is '0'; accepted: a number above 0"),
        ({"SAVE_INTERVAL": "often"}, "SAVE_INTERVAL is 'often'"),
        ({"TENSOR": "3"}, "model.num_attention_heads is 4; accepted: a multiple of parallel.tensor, which is 3"),
        ({"TENSOR": "4"}, "one model takes 4 ranks, but there are 2"),
        ({"RECIPE": "huge"}, "--recipe is 'huge'"),
        ({"NNODES": "2", "DRY_RUN": "0"}, "NNODES is 2 outside of a Slurm job"),
    ],
)
def test_it_fails_early_and_says_why(index, knobs, message):
    assert message in refused(**{"DEVICE": "cpu", "RECIPE": "tiny", "DATA_PATH": index} | knobs)


@pytest.mark.parametrize(("code", "says"), [(2, True), (130, False), (1, False)])
def test_only_wrong_settings_do_not_fit(index, tmp_path, code, says):
    """An interruption of the check is none."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {code}\n")
    python.chmod(0o755)
    done = start(DEVICE="cpu", RECIPE="tiny", DATA_PATH=index, PYTHON=python)
    assert (done.returncode, "the settings do not fit" in done.stderr) == (code, says) and not done.stdout


def test_the_nodes_are_those_of_the_job(index, slurm):
    message = refused(DEVICE="cpu", RECIPE="tiny", DATA_PATH=index, NNODES=3, **slurm)
    assert "NNODES is 3, but the job has 2 nodes" in message


def test_an_incomplete_index_is_named(index):
    Path(f"{index}.json").unlink()
    assert "my corpus.json', which does not exist" in refused(DEVICE="cpu", RECIPE="tiny", DATA_PATH=index)


@pytest.mark.distributed
def test_two_nodes_train_together(tmp_path, slurm):
    """The script in a spool folder, as Slurm runs it; two torchruns of one rank each, tensor parallel over both."""
    spooled = tmp_path / "slurm_script"
    shutil.copy(SCRIPT, spooled)
    settings = {"vocabulary.text_size": TEXT_SIZE, "vocabulary.codebook_size": CODEBOOK_SIZE, "logging.interval": 1}
    done = start(
        *(word for name, value in settings.items() for word in (f"--{name}", str(value))),
        *("--model.num_layers", "2", "--logging.progress", "false"),
        script=spooled,
        DRY_RUN=0,
        DEVICE="cpu",
        RECIPE="tiny",
        RANKS_PER_NODE=1,
        TENSOR=2,
        STEPS=2,
        DATA_PATH=write_corpus(tmp_path / "train"),
        OUTPUT=tmp_path / "run",
        **slurm,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line][-1] == 2
    assert (tmp_path / "run" / "latest").exists()
