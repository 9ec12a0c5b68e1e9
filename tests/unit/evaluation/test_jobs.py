"""Suites by name and by dotted name; their options: documented, checked, and listed without torch."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from mars_megatron.evaluation.dataclass_options import add_arguments, build, description_of, values_of
from mars_megatron.evaluation.jobs import SUITES, make_jobs, suite_class

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Example:
    """What it scores.

    More of it.

    Args:
        file: What is read,
            over two lines.
        count: How many.
        share: Of 100 %.
        exact: Whether.
        kind: Of what.
        words: Some.
        share_of_it: A part.
    """

    name: ClassVar[str] = "example"
    file: str
    count: int = 0
    share: float = 0.5
    exact: bool = False
    kind: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()
    share_of_it: float = 0.0


@pytest.mark.parametrize("name", SUITES)
def test_suites_are_documented(name: str) -> None:
    suite = suite_class(name)
    assert suite.name == name and description_of(suite)
    parser = argparse.ArgumentParser()
    add_arguments(parser, suite, "options")
    assert all(action.help and not action.help.startswith("None") for action in parser._actions)


def test_suites_are_listed_without_torch() -> None:
    """The list of suites and a wrong name should not wait for it."""
    code = (
        "import sys; from mars_megatron.evaluation.jobs import SUITES; "
        "from mars_megatron.evaluation.dataclass_options import build; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_of_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Example, "options of an example")

    def read(*line: str) -> Example:
        return build(Example, values_of(Example, parser.parse_args(line)), "example")

    line = "--file 007 --count 3 --share 1 --exact --kind b --words x null".split()
    assert read(*line) == Example("007", 3, 1.0, True, "b", ("x", "null"))
    assert read("--file", "f", "--share-of-it=2e-3", "--no-exact") == Example("f", share_of_it=0.002)
    text = " ".join(parser.format_help().split())
    assert "What is read, over two lines. (required)" in text and "Of 100 %. (default: 0.5)" in text
    assert all(f"{shown})" in text for shown in ("many. (default: 0", "Whether. (default: off", "Some. (default: none"))
    for wrong in (["--count", "3"], ["--file", "f", "--kind", "c"], ["--file", "f", "--words"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    for wrong in (["--count", "x"], ["--count", "1.5"], ["--share", "half"]):
        with pytest.raises(ValueError, match=f"example: .*{wrong[0][2:]}.* {wrong[1]}"):
            read("--file", "f", *wrong)


def test_options_of_a_file() -> None:
    assert build(Example, {"file": "f", "share": 1, "words": ["x"]}, "s") == Example("f", share=1.0, words=("x",))
    for values, message in (
        ({}, "s: .* required: file"),
        ({"file": "f", "cuont": 1}, "s: unknown option cuont; accepted: file, count"),
        ({"file": 3}, 's: .*"file": .* value: 3'),
        ({"file": None}, "s: file is null"),
        ({"file": "f", "count": None}, "s: count is null"),
        ({"file": "f", "count": True}, '"count": .* value: True'),
        ({"file": "f", "exact": 1}, '"exact": .* value: 1'),
        ({"file": "f", "kind": "c"}, '"kind": .*a.*b.* value: c'),
        ({"file": "f", "words": "x"}, '"words": .* value: x'),
        ({"file": "f", "words": [1]}, '"words": .* value: 1'),
    ):
        with pytest.raises(ValueError, match=message):
            build(Example, values, "s")


def test_suites_of_a_file() -> None:
    jobs = make_jobs({"facts": {"facts": "f"}, "more": {"suite": "facts", "facts": "g"}, "likelihood": None}, "file")
    assert [(job.label, job.suite.name) for job in jobs] == [
        ("facts", "facts"),
        ("more", "facts"),
        ("likelihood", "likelihood"),
    ]
    assert not any(job.needs_image_tokenizer for job in jobs)
    for suites, message in (
        ({}, "file names no suite; accepted: prompt_fidelity, "),
        ({"nothing": {}}, "file: nothing is 'nothing'; accepted: prompt_fidelity, "),
        ({"facts": "f"}, "file: facts is 'f'; accepted: a name, and a mapping of options"),
        ({"a/b": {"suite": "facts", "facts": "f"}}, "file: a/b: 'a/b' cannot name a file"),
        ({"x": {"suite": 3}}, "file: x asks for the suite 3; accepted: prompt_fidelity, "),
        ({"facts": {"fact": "f"}}, "file: facts: unknown option fact"),
    ):
        with pytest.raises(ValueError, match=message):
            make_jobs(suites, "file")


MINE = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Mine:
    \"\"\"A suite of mine.

    Args:
        length: Of what.
    \"\"\"

    name: ClassVar[str] = "mine"
    needs_image_tokenizer: ClassVar[bool] = False
    length: int

    def check(self): pass
    def run(self, context): pass

@dataclass(frozen=True)
class Half:
    name: ClassVar[str] = "half"

class Plain:
    name = "plain"
    def check(self): pass
    def run(self, context): pass

def function(): pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, which is not on the path, with suites of a user."""
    (tmp_path / "suites_of_mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("suites_of_mine", None)


@pytest.mark.parametrize("name", ["suites_of_mine.Mine", "suites_of_mine:Mine", "suites_of_mine.py:Mine"])
def test_a_suite_of_the_users(name: str, folder: Path) -> None:
    first, second, third = make_jobs(
        {name: {"length": 1}, "longer": {"suite": name, "length": 2}, "likelihood": {}}, "file"
    )
    assert [(job.label, job.suite.name, job.source) for job in (first, second)] == [
        ("mine", "mine", name),
        ("longer", "mine", name),
    ]
    assert not first.needs_image_tokenizer and third.source == ""
    with pytest.raises(ValueError, match="unknown option lenght; accepted: length"):
        make_jobs({name: {"lenght": 1}}, "file")
    with pytest.raises(ValueError, match="file asks for mine more than once"):
        make_jobs({name: {"length": 1}, "mine": {"suite": name, "length": 2}}, "file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("suites_of_mine.Half", "a type without check, run; accepted: a dataclass as mars_megatron.evaluation.suite"),
        ("suites_of_mine.Plain", "a type; accepted: a dataclass"),
        ("suites_of_mine:function", "a function without name, check, run; accepted: a dataclass"),
        ("suites_of_mine.Absent", "has no Absent; it has Mine, Half, Plain, function"),
        ("no_such_suites.Mine", "there is no module no_such_suites in .*; start where it is, or set PYTHONPATH"),
        (
            "compositionall",
            "file: compositionall is 'compositionall'; accepted: prompt_fidelity, .*package.module.name",
        ),
    ],
)
def test_wrong_names_of_suites(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_jobs({name: {}}, "file")


def test_a_short_name_of_earlier_versions_leads_to_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=r"perhaps examples\.compositional\.suite\.Compositional; accepted"):
        make_jobs({"compositional": {"benchmark": "folder"}}, "file")
    name = "examples.compositional.suite.Compositional"
    (job,) = make_jobs({"compositional": {"suite": name, "benchmark": "folder"}}, "file")
    assert job.label == job.suite.name == "compositional" and job.needs_image_tokenizer


def test_the_tool_takes_a_suite_of_the_current_directory(folder: Path) -> None:
    """A script's own folder is on the path, not the current one; and its help does not wait for torch."""
    tool = [sys.executable, "-X", "importtime", str(ROOT / "tools" / "evaluate.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*tool, "suites_of_mine.Mine", "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--length N" in done.stdout and "A suite of mine." in done.stdout
    assert "| torch\n" not in done.stderr and "| mars_megatron.evaluation.jobs\n" in done.stderr
    done = subprocess.run([*tool, "suites_of_mine.Other"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "SUITE is 'suites_of_mine.Other', but suites_of_mine has no Other" in done.stderr
