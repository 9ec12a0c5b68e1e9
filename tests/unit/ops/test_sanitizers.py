"""The C++ core under the address and undefined-behaviour sanitizers, and the CUDA source under nvcc."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPILER = os.environ.get("CXX", "c++")


def run(*command: object) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert result.returncode == 0, f"{command} failed with {result.returncode}:\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("core") / "test_core"
    run(
        *(COMPILER, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Wno-sign-compare", "-Werror"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"),
        *("tests/csrc/test_core.cpp", "csrc/plan.cpp", "csrc/permute_rows.cpp", "-o", path),
    )
    return path


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_core(program: Path, seed: int) -> None:
    assert "10000 rounds passed" in run(program, seed, 10_000)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_cuda_source_compiles(tmp_path: Path) -> None:
    architectures = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in (80, 90, 100)]
    run(
        *("nvcc", "-std=c++17", "-O3", "--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", *architectures),
        *("-c", "csrc/permute_rows_cuda.cu", "-o", tmp_path / "permute_rows_cuda.o"),
    )
