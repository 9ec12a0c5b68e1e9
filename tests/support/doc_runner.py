"""Run, or only parse, the commands of code blocks, all in this one process: imports take seconds.

Its arguments are two files: a JSON list of {"place", "language", "text", "commands", "run"}, which it reads, and one of
{"place", "error"}, which it writes. What the last block printed is in the second file's name with .log. It works in
the current folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.doc_blocks import ROOT

# Added to commands that would train for minutes; the later option wins.
SHORTER = {
    "tools/train_tokenizer.py image": ["--warmup-steps", "2", "--steps", "2"],
    "-m mars_megatron.train": ["--training.steps", "2"],
}


class Parsed(BaseException):
    """A command line was accepted."""


def run_python(arguments: Sequence[str]) -> None:
    """`python ARGUMENTS`, in this process.

    Raises:
        ValueError: It ended with another code than 0.
    """
    more = next((added for start, added in SHORTER.items() if " ".join(arguments).startswith(start)), [])
    words = [*arguments, *more]
    before = sys.argv
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise ValueError(f"exit code {end.code}") from end
    finally:
        sys.argv = before


def parse_python(arguments: Sequence[str], ranks: int = 1) -> None:
    """Give the options to the program's own parser, and go no further.

    Raises:
        ValueError: It refused them.
    """
    if arguments[:2] == ["-m", "mars_megatron.train"]:
        from mars_megatron.recipes.command_line import parse

        os.environ["WORLD_SIZE"] = str(ranks)
        try:
            parse(arguments[2:])
        except SystemExit as end:
            raise ValueError(f"exit code {end.code}") from end
        finally:
            del os.environ["WORLD_SIZE"]
        return
    with stopping_behind_parsers(), contextlib.suppress(Parsed):
        run_python(arguments)


@contextlib.contextmanager
def stopping_behind_parsers() -> Iterator[None]:
    """Within it, the outermost call of a parser raises Parsed once it has accepted what it was given."""
    depth = 0
    originals = {name: getattr(argparse.ArgumentParser, name) for name in ("parse_args", "parse_known_args")}

    def watched(original: Callable) -> Callable:
        def call(self: argparse.ArgumentParser, *arguments: object, **options: object) -> object:
            nonlocal depth
            depth += 1
            try:
                result = original(self, *arguments, **options)
            finally:
                depth -= 1
            if depth:
                return result
            settings = result[1] if isinstance(result, tuple) else []
            if settings:  # those that are no options of the tool belong to the configuration
                from mars_megatron.config import RunConfig
                from mars_megatron.config.parser import override

                override(RunConfig(), settings)
            raise Parsed

        return call

    for name, original in originals.items():
        setattr(argparse.ArgumentParser, name, watched(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(argparse.ArgumentParser, name, original)


def run_shell(text: str) -> None:
    """Run shell commands in a process of their own.

    Raises:
        ValueError: They failed.
    """
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")


def check_shell(words: Sequence[str]) -> None:
    """Check that what a command names is there: its script, the variables that it sets, a tool of the environment.

    Raises:
        ValueError: Something is not.
    """
    line = " ".join(words)
    scripts = re.findall(r"(?:examples|tests|tools)/[\w/]+\.(?:sh|py)|\.ci/run", line)
    for script in scripts:
        if not (ROOT / script).is_file():
            raise ValueError(f"{script} does not exist")
    known = "".join((ROOT / script).read_text(encoding="utf-8") for script in scripts)
    for name in re.findall(r"^(?:\w+=\S* )*?(\w+)=", line) if scripts else ():
        if name.isupper() and f"${{{name}:=" not in known:
            raise ValueError(f"{scripts} have no variable {name}")
    if tool := re.match(r"\.venv/bin/([\w-]+)", line):
        pinned = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
        if not re.search(rf"^{tool.group(1)}\b", pinned, re.MULTILINE):
            raise ValueError(f"requirements-dev.txt does not have {tool.group(1)}")
    elif not scripts and words[0] != "export":
        raise ValueError(f"nothing is known of {words[0]}; teach tests/support/doc_runner.py what to check")


def handle_command(words: list[str], run: bool) -> None:
    """Run or check one command of a shell block."""
    if words == ["source", ".venv/bin/activate"]:
        return
    if words[0] == "python":
        (run_python if run else parse_python)(words[1:])
    elif words[0] == "torchrun" and not run:
        assert words[1] == "--nproc-per-node"
        parse_python(words[3:], int(words[2]))
    elif run:
        raise ValueError(f"a block of {words[0]} among Python commands is not run; put it into a block of its own")
    else:
        check_shell(words)


def handle(block: dict) -> None:
    """Run or check one block."""
    if block["language"] == "python":
        exec(compile(block["text"], block["place"], "exec"), {"__name__": "__main__"})
    elif block["run"] and not any(words[0] in ("python", "torchrun") for words in block["commands"]):
        run_shell(block["text"])
    else:
        for words in block["commands"]:
            handle_command(words, block["run"])


def main(jobs: str, results: str) -> None:
    sys.path.insert(0, "tools")  # where the tools find what they share
    found = []
    for block in json.loads(Path(jobs).read_text(encoding="utf-8")):
        log, error = Path(f"{results}.log"), ""
        try:  # into a file: a program may end the process at once
            with open(log, "w", buffering=1, encoding="utf-8") as output:
                print(block["place"], file=output)
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    handle(block)
        except Exception:
            error = f"{log.read_text(encoding='utf-8')}\n{traceback.format_exc()}"
        found.append({"place": block["place"], "error": error})
        Path(results).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
