"""What `tests/run.sh --quick` runs is there, and has tests of every package."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = [ROOT / line for line in (ROOT / "tests/quick.txt").read_text("utf-8").splitlines()]


def packages() -> set[str]:
    return {path.parent.name for path in ROOT.glob("mars_megatron/*/__init__.py")}


def test_every_package_has_quick_tests() -> None:
    covered = {path.relative_to(ROOT / "tests/unit").parts[0] for path in QUICK}
    assert len(packages()) > 10 and not packages() - covered


def test_the_list_names_tests_once() -> None:
    assert len(set(QUICK)) == len(QUICK)
    files = [file for path in QUICK for file in ([path] if path.is_file() else sorted(path.rglob("test_*.py")))]
    assert len(set(files)) == len(files) >= len(QUICK) and all(path.exists() for path in QUICK)


def test_help_says_what_there_is_and_does_nothing() -> None:
    for option in ("-h", "--help"):
        done = subprocess.run(["bash", ROOT / "tests/run.sh", option], capture_output=True, text=True, check=True)
        assert all(word in done.stdout for word in ("--quick", "-m long", "-m gpu")) and "setup" not in done.stderr
