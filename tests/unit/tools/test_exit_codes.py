"""Every command line ends with 0 done, 1 a finding, 2 wrong input or usage, 130 interrupted, and its help says so."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mars_megatron import train
from mars_megatron.program import EXIT_CODES, exit_code
from tests.support.command_lines import TOOLS, load_tool
from tests.support.waiting import scaled

MODEL = ["--checkpoint", "nowhere", "--output", "out"]
INDEX = ["--text-tokenizer", "nowhere"]
# Of each tool: wrong usage, wrong input. Paths are below an empty folder.
WRONG: dict[str, tuple[list[list[str]], list[list[str]]]] = {
    "benchmark": ([[], ["steps"], ["step", "--dtype", "fp8"]], [["dispatch", "--json", "nowhere/report.json"]]),
    "convert_checkpoint": (
        [[], ["inspect"], ["verify", "a", "b", "--tolerance", "small"], ["inspect", "a", "--model.num_layers", "3"]],
        [["inspect", "nowhere"], ["verify", "nowhere", "nowhere"], ["init-from-hf", "nowhere", "out"]],
    ),
    "evaluate": ([[], ["fid"], ["likelihood"]], [["likelihood", "nowhere"], ["all", "run", "--config", "nowhere"]]),
    "generate": (
        [[], ["--prompt", "a"], [*MODEL, "--prompt", "a", "--keep-low"], [*MODEL, "--prompt", "a", "--device", "tpu"]],
        [[*MODEL, "--prompt", "a"], [*MODEL, "--prompts", "nowhere.txt"], ["--again", "nowhere.jsonl"]],
    ),
    "index_data": (
        [
            ["index"],
            ["build", "--input", "x"],
            ["--input", "x", "--output", "y", *INDEX, "--resolution", "8"],
            ["inspect", "x", "--seed", "1"],
            ["validate"],
        ],
        [
            ["--input", "nowhere.txt", "--output", "out", *INDEX],
            ["merge", "--output", "out"],
            ["inspect", "nowhere"],
            ["validate", "nowhere"],
        ],
    ),
    "interleave": (
        [[], [*MODEL, "--prompts", "x", "--seed", "-1"]],
        [[*MODEL, "--prompts", "nowhere.jsonl"]],
    ),
    "train_tokenizer": (
        [[], ["text"], ["image", "--input", "x", "--output", "y"]],
        [["text", "--input", "nowhere", "--output", "out"],
         ["image", "--input", "nowhere", "--output", "out", "--resolution", "8"]],
    ),
    "train": ([["--recipes", "tiny"], ["--model.num_layers", "few"]], [["--config", "nowhere.yaml"]]),
}  # fmt: skip

COMMANDS = {
    "benchmark": "step",
    "convert_checkpoint": "verify",
    "evaluate": "likelihood",
    "index_data": "validate",
    "train_tokenizer": "text",
}


def main_of(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """What the process would end with."""
    try:
        if name == "train":
            monkeypatch.setattr(sys, "argv", ["train", *arguments])
            return train.main()
        return int(load_tool(name).main(arguments))
    except SystemExit as end:  # of a parser
        return int(end.code or 0)


def test_no_command_line_is_left_out() -> None:
    programs = {path.stem for path in TOOLS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert programs | {"train"} == set(WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_and_wrong_input(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in WRONG[name][0]:
        assert main_of(name, arguments, monkeypatch) == 2, arguments
        assert "error: " in capsys.readouterr().err
    for arguments in WRONG[name][1]:
        assert main_of(name, arguments, monkeypatch) == 2, arguments
        *_, line = capsys.readouterr().err.splitlines()
        assert re.match(r"(.*: )?error: \S", line), line


@pytest.mark.parametrize("name", WRONG)
def test_help_tells_the_codes(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main_of(name, ["--help"], monkeypatch) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == EXIT_CODES
    if name in COMMANDS:
        assert main_of(name, [COMMANDS[name], "--help"], monkeypatch) == 0
        assert capsys.readouterr().out.splitlines()[-1] == EXIT_CODES


# Says so when the program imports the first module that has work to do, and goes no further.
WAITING = """
import runpy, sys, time
def wait(event, arguments, light=("mars_megatron", "mars_megatron.program", "mars_megatron.train")):
    if event == "import" and arguments[0].startswith(("mars_megatron", "torch")) and arguments[0] not in light:
        print("working", flush=True)
        time.sleep(600)
sys.addaudithook(wait)
tool = sys.argv.pop(1)
sys.path.insert(0, tool.rpartition("/")[0])
runpy.run_module(tool, run_name="__main__") if tool.startswith("mars") else runpy.run_path(tool, run_name="__main__")
"""


@pytest.mark.parametrize("name", WRONG)
def test_an_interruption(name: str, tmp_path: Path) -> None:
    """A real Ctrl-C, at the earliest moment after the arguments."""
    tool = "mars_megatron.train" if name == "train" else str(TOOLS / f"{name}.py")
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, tool, *WRONG[name][1][0]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=scaled(30))
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "interrupted; run it again to resume\n")


def test_faults_are_not_dressed_up() -> None:
    for error in (RuntimeError("a fault"), TypeError("another"), AssertionError("a third")):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            exit_code(fail)


@pytest.mark.parametrize(("rank", "begins"), [(None, "error: no"), ("3", "error (rank 3): no")])
def test_a_rank_says_which_it_is(
    rank: str | None, begins: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if rank:
        monkeypatch.setenv("RANK", rank)

    def fail() -> None:
        raise OSError("no space left")

    assert exit_code(fail) == 2
    assert capsys.readouterr().err == f"{begins} space left\n"
    assert (exit_code(lambda: None), exit_code(lambda: 1)) == (0, 1)
