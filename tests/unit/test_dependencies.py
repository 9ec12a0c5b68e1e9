"""What the package imports is declared, with a lower bound; what is tested is pinned."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(line for group in PROJECT["optional-dependencies"].values() for line in group),
]
# Looked for where it is used, and offered by no registry for every machine: what their absence costs is said there.
WITHOUT = {"transformer_engine", "apex", "deepspeed", "spacy"}
# Their versions are chosen by megatron-core, which needs the first, and by transformers, which needs the second.
BROUGHT = {"packaging", "tokenizers"}


def distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!; ]", requirement, maxsplit=1)[0]).lower()


DECLARED = {distribution(line) for line in REQUIREMENTS}


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


def test_what_the_package_imports_is_declared() -> None:
    names = set().union(*(imported(path) for path in (ROOT / "mars_megatron").rglob("*.py")))
    distributions, declared = packages_distributions(), {distribution(line) for line in PROJECT["dependencies"]}
    for name in names - set(sys.stdlib_module_names) - {"mars_megatron"} - WITHOUT:
        found = {distribution(other) for other in distributions.get(name, [name])}
        assert found & (declared | BROUGHT), f"{name} ({found}) is not in pyproject.toml"


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_dependency_has_a_lower_bound(requirement: str) -> None:
    assert ">=" in requirement.split(";")[0]


def test_every_dependency_is_pinned_for_the_tests() -> None:
    lines = [
        line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).read_text().splitlines()
    ]
    pinned = {distribution(line) for line in lines if line and not line.startswith("#")}
    assert DECLARED - pinned <= {"torch"}, "torch is pinned by examples/setup.sh"
