"""The C++ core under the address and undefined-behaviour sanitizers, and the CUDA sources under nvcc."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parents[3]
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")


def run(*command: object) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, f"{command} failed with {result.returncode}:\n{result.stdout}{result.stderr}"
    return result.stdout


PROGRAMS = {
    "test_core": ("csrc/plan.cpp", "csrc/permute_rows.cpp"),
    "test_round_plan": ("csrc/packing.cpp", "csrc/corpus.cpp", "csrc/round_plan.cpp"),
}


@pytest.mark.parametrize(("name", "rounds"), [("test_core", 4_000), ("test_round_plan", 400)])
def test_core(name: str, rounds: int, tmp_path: Path) -> None:
    program = tmp_path / name
    run(
        *(*COMPILER, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Wno-sign-compare", "-Werror"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"),
        *(f"tests/csrc/{name}.cpp", *PROGRAMS[name], "-o", program),
    )
    for seed in (1, 2, 3):
        assert f"{rounds} rounds passed" in run(program, seed, rounds)


@needs_nvcc
def test_cuda_source_compiles(tmp_path: Path) -> None:
    known = run("nvcc", "--list-gpu-arch").split()
    numbers = [number for number in (75, 80, 90, 100) if f"compute_{number}" in known]
    assert numbers, known
    architectures = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    run(
        *("nvcc", "-std=c++17", "-O3", "--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", *architectures),
        *("-c", "csrc/permute_rows_cuda.cu", "-o", tmp_path / "permute_rows_cuda.o"),
    )


@needs_nvcc
def test_cuda_operator_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a CUDA build of torch generates; the rest of the headers is in every build.
    stub = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
    stub.parent.mkdir(parents=True)
    stub.write_text("#define C10_CUDA_BUILD_SHARED_LIBS\n")
    # A .cpp file goes to the host's compiler as it is; nvcc adds the includes of the toolkit.
    # Through the environment: a folder with spaces does not survive -Xcompiler.
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", os.pathsep.join(map(str, (tmp_path, *include_paths()))))
    run(
        *("nvcc", "-std=c++20", "-Xcompiler=-fsyntax-only,-Wall,-Wextra,-Werror"),
        *("-c", "csrc/permute_rows_op_cuda.cpp", "-o", tmp_path / "unused.o"),
    )
