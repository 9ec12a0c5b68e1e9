"""What scripts make of the documentation is current, and the site builds without a warning."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys

import pytest

from tests.support.doc_blocks import ROOT

DOCS = ROOT / "docs"


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "mars_megatron.sampling" in api
    assert "PREFIX.idx" in (tmp_path / "site" / "index-format.html").read_text(encoding="utf-8")


def test_the_configuration_page_is_current():
    page = runpy.run_path(str(DOCS / "make_configuration.py"))["page"]
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == page(), "run python docs/make_configuration.py"


def what_it_shows(svg: str) -> tuple[list[str], int]:
    """The texts of a drawing (matplotlib keeps each in a comment) and the number of its shapes."""
    return re.findall(r"<!-- (.*?) -->", svg), len(re.findall(r"<path ", svg))


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """The drawings, made anew."""
    folder = tmp_path_factory.mktemp("drawings")
    command = [sys.executable, str(DOCS / "drawings" / "make.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return folder


def test_drawings_are_current(drawings):
    made, kept = ({path.name: path for path in folder.glob("*.svg")} for folder in (drawings, DOCS / "images"))
    assert set(made) == set(kept) and len(made) >= 5
    for name, path in made.items():
        shown = what_it_shows(path.read_text(encoding="utf-8"))
        assert shown == what_it_shows(kept[name].read_text(encoding="utf-8")), "run python docs/drawings/make.py"
        assert shown[0] and shown[1]
