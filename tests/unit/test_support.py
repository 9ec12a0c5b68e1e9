"""What tests share lies in tests/support: no test imports another, and helpers import no test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("tests/**/*.py"))


def imported(source: str, package: str) -> Iterator[str]:
    """The modules that a module names in its imports, also inside functions; `package` is where it lies."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def outside_support(source: str, package: str) -> list[str]:
    """Of these what belongs to tests, but not to tests.support."""
    return [
        name
        for name in imported(source, package)
        if name.partition(".")[0] in ("tests", "conftest") or name.partition(".")[0].startswith("test_")
        if not name.startswith("tests.support.")
    ]


def test_helpers_lie_in_support() -> None:
    assert len(FILES) > 100
    found = {
        str(path.relative_to(ROOT)): names
        for path in FILES
        if (names := outside_support(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parent.parts)))
    }
    assert not found, found


def test_what_is_neither_a_test_nor_a_conftest_lies_in_support() -> None:
    outside = [path for path in FILES if not path.is_relative_to(ROOT / "tests/support")]
    others = [path for path in outside if path.name != "conftest.py" and not path.name.startswith("test_")]
    assert not others, others


@pytest.mark.parametrize(
    "line",
    [
        *("import tests.unit.model.test_rope", "from tests.unit.model.test_rope import x", "from .test_rope import x"),
        *(
            "from tests.unit.model import test_rope",
            "from .conftest import x",
            "import conftest",
            "from ..data import x",
        ),
        *("def f():\n    from tests.distributed.test_layouts import x", "import test_rope", "from tests import unit"),
    ],
)
def test_every_form_of_import_is_seen(line: str) -> None:
    assert outside_support(line, "tests.unit.model")
    assert not outside_support("from tests.support import tiny\nfrom tests.support.tiny import x", "tests.unit.model")
