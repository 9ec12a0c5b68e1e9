"""Every link of README and docs resolves, to a file and to a heading in it, and every file that they name is there.
Addresses of other hosts are not fetched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

from tests.support.doc_blocks import PAGES, ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`((?:[a-z_.*\d-]+/)+[\w.*-]+\.(?:py|sh|md|h|so))\b")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links(path: Path) -> list[str]:
    """Targets of all links and images outside of code."""
    text = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", path.read_text(encoding="utf-8")))
    return [target for target in _LINK.findall(text) if not re.match(r"https?:|mailto:", target)]


def anchors(path: Path) -> set[str]:
    """What can stand behind # in a link to a page, here and on GitHub."""
    headings = _HEADING.findall(_FENCED.sub("", path.read_text(encoding="utf-8")))
    return {slugify(re.sub(r"[`\[\]]|\([^)]*\)", "", heading), "-") for heading in headings}


def problem(page: Path, target: str) -> str:
    """What is wrong with a link, or an empty string."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return f"{target}: no such file"
    if not file.is_relative_to(ROOT):
        return f"{target}: outside of the repository"
    return f"{target}: no such heading" if anchor and anchor not in anchors(file) else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    assert not [found for target in links(page) if (found := problem(page, target))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    named = set(_FILE.findall(text)) - {"folder/file.py"}  # which stands for a file of the user
    assert not [name for name in named if not any(any(base.glob(name)) for base in (ROOT, ROOT / "mars_megatron"))]


def test_wrong_links_are_found(tmp_path):
    page = ROOT / "docs" / "index.md"
    assert not problem(page, "concepts.md#routing") and not problem(page, "../README.md#status")
    assert "file" in problem(page, "concept.md") and "heading" in problem(page, "concepts.md#rooting")
    assert links(ROOT / "README.md") and "routing" in anchors(ROOT / "docs" / "concepts.md")


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_no_command_stands_outside_of_a_fence():
    for page in PAGES:
        text = _FENCED.sub("", page.read_text(encoding="utf-8"))
        assert not re.findall(r"^ {4,}(?:python|bash|torchrun|sbatch|\.venv).*$", text, re.MULTILINE), page
