"""Environments that hold chosen distributions, what they require, and nothing else of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PRELUDE = "import sys\nsys.path.insert(0, sys.argv.pop(1))\n"


def closure(distributions: Sequence[str]) -> set[str]:
    """Canonical names of the distributions and of all that they require here, extras left out."""
    found: set[str] = set()
    wanted = [canonicalize_name(name) for name in distributions]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(canonicalize_name(requirement.name))
    return found


def make(folder: Path, distributions: Sequence[str]) -> Path:
    """Link the closure of the distributions into `folder / "site"`.

    Args:
        folder: Exists; also gets the caches of what runs there.
        distributions: Names, such as "torch"; each must be installed here.

    Returns:
        The folder to run with.
    """
    site = folder / "site"
    site.mkdir()
    for name in closure(distributions):
        installed = distribution(name)
        tops = {path.parts[0] for path in installed.files or [] if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            if not top.endswith(".pth") and not (site / top).exists():
                (site / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
    return site


def run(site: Path, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python code that sees the standard library and `site` alone; its arguments are sys.argv[1:].

    Nothing is downloaded. A failure is for the caller to judge (returncode, stderr).
    """
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {"HF_HOME": str(site.parent / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(site.parent), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PRELUDE + code, str(site), *map(str, arguments)],
        env=environment,
        cwd=site.parent,
        capture_output=True,
        text=True,
    )
