"""setup.py: when the CUDA kernels are built, and for which GPUs. The compilers here only print what nvcc would."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest
import setuptools
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[3]


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bin/nvcc of CUDA 13 and its header, beside a torch of CUDA 13 and no GPU."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        '--version) echo "Cuda compilation tools, release 13.0, V13.0.88" ;;\n'
        '--list-gpu-arch) printf "compute_75\\ncompute_80\\ncompute_90\\ncompute_100\\n" ;;\n'
        "esac\n"
    )
    nvcc.chmod(0o755)
    header = tmp_path / "include" / "cuda_runtime.h"
    header.parent.mkdir()
    header.touch()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("MARS_CUDA", raising=False)
    # Set first, so that what setup.py puts there is taken away again.
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    return tmp_path


def builds_kernels(monkeypatch: pytest.MonkeyPatch) -> bool:
    made: list[setuptools.Extension] = []
    monkeypatch.setattr(setuptools, "setup", lambda ext_modules, **_: made.extend(ext_modules))
    runpy.run_path(str(ROOT / "setup.py"))
    (extension,) = made
    kernels = [source for source in extension.sources if "_cuda." in source]
    assert len(kernels) in (0, 2) and "csrc/plan.cpp" in extension.sources
    return bool(kernels)


def test_kernels_for_the_gpus_that_nvcc_knows(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert builds_kernels(monkeypatch) and os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5 8.0 9.0+PTX"
    nvcc = toolkit / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace("compute_90\\ncompute_100\\n", ""))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    assert builds_kernels(monkeypatch) and os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5 8.0+PTX"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert builds_kernels(monkeypatch) and os.environ["TORCH_CUDA_ARCH_LIST"] == "8.6"


def test_an_nvcc_of_another_cuda_is_left_alone(toolkit: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert not builds_kernels(monkeypatch)
    assert "needs an nvcc of CUDA 12" in (said := capsys.readouterr().out) and "is of CUDA 13" in said


def test_an_nvcc_without_its_headers_is_left_alone(toolkit: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A distribution may link nvcc to /usr/local/bin, and the rest not."""
    (toolkit / "include" / "cuda_runtime.h").unlink()
    assert not builds_kernels(monkeypatch)
    assert f"there is no cuda_runtime.h in {toolkit / 'include'}; set CUDA_HOME" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["missing", "not executable", "broken", "no toolkit"])
def test_without_an_nvcc_that_runs(toolkit: Path, monkeypatch: pytest.MonkeyPatch, capsys, what: str) -> None:
    nvcc = toolkit / "bin" / "nvcc"
    if what == "missing":
        nvcc.unlink()
    elif what == "not executable":
        nvcc.chmod(0o644)
    elif what == "broken":
        nvcc.write_text("#!/bin/sh\nexit 1\n")
    else:
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert not builds_kernels(monkeypatch)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "is not there or fails; set CUDA_HOME" in said


def test_kernels_may_be_left_out(toolkit: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("MARS_CUDA", "0")
    assert not builds_kernels(monkeypatch) and not capsys.readouterr().out


def test_a_torch_without_cuda_needs_no_word(toolkit: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not builds_kernels(monkeypatch) and not capsys.readouterr().out
