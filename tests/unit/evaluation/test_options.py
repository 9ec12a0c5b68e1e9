"""Options of suites: documented, checked, and there without torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from mars_megatron.evaluation.options import add_arguments, build_suite, description_of, from_arguments, options_of
from mars_megatron.evaluation.registry import SUITES, make_jobs, suite_class


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
    """

    name: ClassVar[str] = "example"
    file: str
    count: int = 0
    share: float = 0.5
    exact: bool = False
    kind: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()


@pytest.mark.parametrize("name", SUITES)
def test_suites_are_documented(name: str) -> None:
    suite = suite_class(name)
    assert suite.name == name and description_of(suite)[0]  # type: ignore[attr-defined]
    assert all(option.help and option.accepted for option in options_of(suite))
    add_arguments(argparse.ArgumentParser(), suite)


def test_suites_are_there_without_torch() -> None:
    """--help and a wrong option should not wait for it."""
    code = (
        "import sys; from mars_megatron.evaluation.registry import SUITES, suite_class; "
        "[suite_class(name) for name in SUITES]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_of_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Example)
    line = "--file f --count 3 --share 1 --exact --kind b --words x y".split()
    assert from_arguments(Example, parser.parse_args(line)) == Example("f", 3, 1.0, True, "b", ("x", "y"))
    assert from_arguments(Example, parser.parse_args(["--file", "f"])) == Example("f")
    text = " ".join(parser.format_help().split())
    assert "What is read, over two lines. (required)" in text and "Of 100 %. (default: 0.5)" in text
    assert all(f"{shown})" in text for shown in ("many. (default: 0", "Whether. (default: off", "Some. (default: none"))
    for wrong in (["--count", "3"], ["--file", "f", "--count", "x"], ["--file", "f", "--kind", "c"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    with pytest.raises(ValueError, match="example: share is inf; accepted: a finite number"):
        from_arguments(Example, parser.parse_args(["--file", "f", "--share", "inf"]))


def test_options_of_a_file() -> None:
    assert build_suite(Example, {"file": "f", "share": 1, "words": ["x"]}, "s") == Example("f", share=1.0, words=("x",))
    for values, message in (
        ({}, "s: file is missing"),
        ({"file": "f", "cuont": 1}, "s: unknown option cuont; accepted: file, count"),
        ({"file": 3}, "s: file is 3; accepted: a string"),
        ({"file": "f", "count": True}, "count is True; accepted: an integer"),
        ({"file": "f", "exact": 1}, "exact is 1; accepted: true or false"),
        ({"file": "f", "kind": "c"}, "kind is 'c'; accepted: a, b"),
        ({"file": "f", "words": "x"}, "words is 'x'; accepted: a list of strings"),
    ):
        with pytest.raises(ValueError, match=message):
            build_suite(Example, values, "s")


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
        ({"nothing": {}}, "file: nothing asks for the suite 'nothing'; accepted: prompt_fidelity, "),
        ({"facts": "f"}, "file: facts is 'f'; accepted: a name, and a mapping of options"),
        ({"a/b": {"suite": "facts", "facts": "f"}}, "file: a/b is"),
        ({"facts": {"fact": "f"}}, "file: facts: unknown option fact"),
    ):
        with pytest.raises(ValueError, match=message):
            make_jobs(suites, "file")
