"""examples/setup.sh with a stand-in for Python that records what pip is asked for."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXTENSION = f"mars_megatron/_C{sysconfig.get_config_var('EXT_SUFFIX')}"

# Real Python where the script asks it something, a record where it installs.
STUB = f"""#!/usr/bin/env bash
here=$(dirname "$0")
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip")
        echo "$*" >> pip.log
        case "$*" in
            *"-e ."*) touch {EXTENSION} ;;
            *"torch"*) [[ "$*" != *"$REFUSED"* ]] || exit 1; touch "$here/torch" ;;
        esac ;;
    "-c import torch") [[ -e $here/torch ]] ;;
    *) exec {shlex.quote(sys.executable)} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with what the script reads."""
    for folder in ("examples", "csrc", "mars_megatron", "tools-on-path"):
        (tmp_path / folder).mkdir()
    for name in ("examples/setup.sh", "pyproject.toml", "requirements.txt", "requirements-dev.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "csrc" / "op.cpp").write_text("int a;")
    for name, text in (("python-stub", STUB), ("c++", "#!/bin/sh\n"), ("nvidia-smi", "#!/bin/sh\nexit 9\n")):
        path = tmp_path / "tools-on-path" / name
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def setup(checkout, refused="nothing", **knobs):
    """Run the script; returns the process and the pip calls it made."""
    log = checkout / "pip.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", str(checkout / "examples" / "setup.sh")],
        env={
            **os.environ,
            "PATH": f"{checkout / 'tools-on-path'}:{os.environ['PATH']}",
            "PYTHON": "python-stub",
            "CXX": "c++",
            "REFUSED": refused,
            **knobs,
        },
        capture_output=True,
        text=True,
    )
    return done, log.read_text().splitlines() if log.exists() else []


def test_torch_comes_first_then_the_pins_then_the_build(checkout):
    done, calls = setup(checkout)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 3
    assert calls[0].endswith(" torch==2.13.0+cpu") and "index-url" not in calls[0]
    assert calls[1].endswith(" -r requirements.txt -r requirements-dev.txt")
    assert calls[2].endswith(" --no-build-isolation --no-deps -e .")


def test_what_is_there_is_left_alone(checkout):
    setup(checkout)
    done, calls = setup(checkout)
    assert (done.returncode, done.stdout, calls) == (0, "", [])


def test_an_environment_of_another_python_is_not_used(checkout):
    setup(checkout)
    other = checkout / "tools-on-path" / "python-other"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    done, calls = setup(checkout, PYTHON="python-other")
    assert done.returncode == 1 and not calls
    assert "PYTHON is python-other; set VENV to another folder, or remove .venv" in done.stderr


@pytest.mark.parametrize("changed", ["requirements.txt", "csrc/op.cpp", "setup.py", "pyproject.toml"])
def test_a_change_is_installed_without_touching_torch(checkout, changed):
    setup(checkout)
    with (checkout / changed).open("a") as file:
        file.write("\n")
    done, calls = setup(checkout)
    assert done.returncode == 0 and len(calls) == 2 and "torch" not in " ".join(calls)


def test_a_lost_extension_is_built_again(checkout):
    setup(checkout)
    (checkout / EXTENSION).rename(checkout / "mars_megatron" / "_C.cpython-39-x86_64-linux-gnu.so")  # another Python's
    done, calls = setup(checkout)
    assert done.returncode == 0 and calls[-1].endswith("-e .")


def test_an_interrupted_setup_is_not_taken_for_complete(checkout):
    done, _ = setup(checkout, refused="torch==2.13.0")
    assert done.returncode != 0 and "set TORCH" in done.stderr
    done, calls = setup(checkout)
    assert done.returncode == 0 and len(calls) == 3


def test_the_cuda_build_serves_where_there_is_no_cpu_build(checkout):
    # pip is asked twice for the CPU build; the second time with PyTorch's own index. The stand-in refuses both.
    done, calls = setup(checkout, refused="torch==2.13.0+cpu")
    assert done.returncode == 0 and "--index-url https://download.pytorch.org/whl/cpu" in calls[1]
    assert calls[2].endswith(" torch==2.13.0") and "index-url" not in calls[2] and len(calls) == 5
    assert "no CPU build of torch 2.13.0 for this Python is to be had: installing the CUDA build" in done.stdout


def test_environments_of_two_pythons_stand_side_by_side(checkout):
    setup(checkout)
    done, calls = setup(checkout, VENV=".venv-other")
    assert done.returncode == 0 and len(calls) == 3
    assert (checkout / ".venv-other" / ".setup-complete").is_file() and setup(checkout)[1] == []


def test_a_gpu_machine_takes_the_pinned_torch_of_the_registry(checkout):
    (checkout / "tools-on-path" / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    _, calls = setup(checkout)
    assert calls[0].split()[-1] == "torch==2.13.0"


def test_torch_can_be_chosen(checkout):
    _, calls = setup(checkout, TORCH="torch==2.6.0")
    assert calls[0].split()[-1] == "torch==2.6.0"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"PYTHON": "no-such-python"}, "PYTHON is no-such-python, which is not there; give a Python >= 3.11"),
        ({"CXX": "no-such-compiler"}, "there is no C++ compiler"),
    ],
)
def test_what_the_machine_lacks_is_named(checkout, knobs, message):
    done, calls = setup(checkout, **knobs)
    assert done.returncode != 0 and message in done.stderr and not calls
    assert not (checkout / ".venv").exists()
