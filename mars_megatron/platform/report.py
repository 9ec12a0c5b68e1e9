"""Libraries and devices of this machine, and the effect of each missing one."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform as python_platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

MEGATRON_CORE = ">=0.16.1,<0.20,!=0.17.*,!=0.18.*"  # as in pyproject.toml; what differs is in compat


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        name: What it is.
        found: Whether it is there and can be used.
        detail: Its version or kind; where it cannot be used, why.
        cost: What its absence costs.
        required: Nothing runs without it.
    """

    name: str
    found: bool
    detail: str
    cost: str
    required: bool = False


def inspect() -> list[Finding]:
    """Look for everything, in the order of the report."""
    return [
        Finding("Python", True, python_platform.python_version(), "", required=True),
        _package("torch", "torch", "torch", "nothing runs", required=True),
        _megatron_core(),
        _package("psutil", "psutil", "psutil", "saving a checkpoint hangs for ever", required=True),
        _package(
            "Transformer Engine",
            "transformer-engine",
            "transformer_engine.pytorch",
            "training.backend=local only: no variable-length attention kernels; the samples of a pack are padded to "
            "the longest for torch's attention",
        ),
        _package("apex", "apex", "apex", "no fused kernels of apex; torch's fused AdamW updates the parameters"),
        _package("DeepSpeed", "deepspeed", "deepspeed", "nothing; DeepSpeed is not used"),
        _gpus(),
        _communication("NCCL", "is_nccl_available", "ranks on GPUs cannot communicate: one GPU only"),
        _communication("gloo", "is_gloo_available", "ranks on CPUs cannot communicate: one process only"),
        _extension(),
    ]


def as_text(findings: list[Finding]) -> str:
    """The report for people: one line each, with the cost below what is missing."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        state = "found  " if finding.found else "MISSING" if finding.required else "missing"
        lines.append(f"{finding.name:<{width}}  {state}  {finding.detail}".rstrip())
        if not finding.found:
            lines.append(f"{'':<{width}}           costs: {finding.cost}")
    lines.append(f"training.device=auto takes {device(findings)}; {os.cpu_count()} CPU cores")
    return "\n".join(lines)


def as_dict(findings: list[Finding]) -> dict[str, object]:
    """The report for programs."""
    return {
        "device": device(findings),
        "cpu_cores": os.cpu_count(),
        "usable": usable(findings),
        "findings": [asdict(finding) for finding in findings],
    }


def device(findings: list[Finding]) -> str:
    """What training.device=auto takes here: cuda or cpu."""
    return "cuda" if any(finding.name == "GPUs" and finding.found for finding in findings) else "cpu"


def usable(findings: list[Finding]) -> bool:
    """Whether everything is there without which nothing runs."""
    return all(finding.found for finding in findings if finding.required)


def _package(name: str, distribution: str, module: str, cost: str, required: bool = False) -> Finding:
    """An installed Python package, imported to see that it works."""
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        there = False
    if not there:
        return Finding(name, False, "", cost, required)
    problem = _import_problem(module)
    if problem:
        return Finding(name, False, f"installed, but cannot be imported: {problem}", cost, required)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return Finding(name, True, version, cost, required)


def _megatron_core() -> Finding:
    # This part of it needs triton in 0.19, and refuses an old nvidia-resiliency-ext.
    layers = "megatron.core.models.backends"
    finding = _package("megatron-core", "megatron-core", layers, "nothing trains", required=True)
    if not finding.found:
        return finding
    from packaging.specifiers import SpecifierSet  # megatron-core brings it

    if SpecifierSet(MEGATRON_CORE).contains(finding.detail, prereleases=True):
        return finding
    needed = "0.19 (Python >= 3.12) or 0.16.1 (Python 3.11) is needed"
    return replace(finding, found=False, detail=f"{finding.detail} is installed; {needed}")


def _import_problem(module: str) -> str:
    """Why a module cannot be imported, on one line, or nothing. Compiled packages fail in many ways."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return ""


def _gpus() -> Finding:
    cost = "training runs on the CPU: enough for the recipe tiny and for examples/, not for mars_7b"
    if _import_problem("torch"):
        return Finding("GPUs", False, "cannot be seen without torch", cost)
    import torch

    if not torch.cuda.is_available():
        build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
        return Finding("GPUs", False, build, cost)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return Finding("GPUs", True, f"{kinds} (CUDA {torch.version.cuda})", cost)


def _communication(name: str, check: str, cost: str) -> Finding:
    if _import_problem("torch"):
        return Finding(name, False, "comes with torch", cost)
    import torch

    available: Callable[[], bool] | None = getattr(torch.distributed, check, None)
    found = torch.distributed.is_available() and available is not None and available()
    return Finding(name, found, "", cost)


def _extension() -> Finding:
    cost = (
        "dispatch plans and row copies take the slower torch reference; "
        "`pip install -e . --no-build-isolation` builds it"
    )
    name = "mars_megatron._C"
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, "not built", cost)
    problem = _import_problem("torch") or _import_problem(name)
    if problem:
        return Finding(name, False, f"built, but cannot be loaded: {problem}", cost)
    from mars_megatron.compat.pytorch import has_kernel

    kinds = [kind for kind in ("CPU", "CUDA") if has_kernel("mars_megatron::permute_rows", kind)]
    return Finding(name, True, f"compiled extension, row copies on {' and '.join(kinds)}", cost)
