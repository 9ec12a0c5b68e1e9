"""A finished quickstart, made once for all tests here, or taken from QUICKSTART_DIR (a RUN_DIR of the quickstart)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The report, what was printed, and the folder."""
    folder = Path(os.environ.get("QUICKSTART_DIR") or tmp_path_factory.mktemp("quickstart"))
    done = subprocess.run(
        ["bash", "examples/quickstart.sh"],
        cwd=ROOT,
        env={**os.environ, "RUN_DIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text(encoding="utf-8")), done.stdout, folder
