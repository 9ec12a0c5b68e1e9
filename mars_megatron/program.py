"""The common frame of all command lines, of training and of the tools: parser and exit codes.

- 0: done. A training run that is asked to stop saves a checkpoint, and ends with 0.
- 1: a finding: an index that is unsound, checkpoints that differ, an image that differs. An error of the program
  itself, which prints a traceback, is 1 too, so that a script does not take it for success.
- 2: wrong input or usage, with a message that names it.
- 130: interrupted by Ctrl-C; indexing by SIGTERM too.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

EXIT_CODES = "Exit codes: 0 done, 1 a finding (unsound, different), 2 wrong input or usage, 130 interrupted."


class Parser(argparse.ArgumentParser):
    """The parser of a command line and of its commands; their help ends with the exit codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.epilog = "\n".join(filter(None, (self.epilog, EXIT_CODES)))


def run_program(
    parse: Callable[[list[str]], argparse.Namespace],
    run: Callable[[argparse.Namespace], int | None],
    arguments: list[str] | None = None,
) -> int:
    """Parse a command line and do what it says.

    Args:
        parse: Of the arguments. It should answer for --help and wrong options without torch, which takes seconds;
            evaluate alone imports the module of a suite, and so torch, for its options.
        run: What the options ask for; returns 1 for a finding.
        arguments: None takes those of the process.

    Returns:
        The exit code.
    """

    def program() -> int | None:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        quiet()
        return run(options)

    return exit_code(program)


def quiet() -> None:
    """No warnings of what users can do nothing about."""
    warnings.filterwarnings("ignore", module=r"megatron\.core.*")  # of every GPU library that is missing
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")  # of its own names


def exit_code(program: Callable[[], int | None], *, tool: bool = True) -> int:
    """Run a program; returns the exit code.

    Args:
        program: What takes long to import, it imports itself, so that an interruption then is answered for too.
        tool: Whether a missing library and a GPU without memory are told in one line. In training the place counts.
    """
    try:
        return program() or 0
    except (ValueError, OSError) as error:
        message = str(error)
    except (ImportError, RuntimeError) as error:
        if not tool:
            raise
        if isinstance(error, ImportError):
            message = str(error)
        elif type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported
            raise
        else:
            first = str(error).splitlines()[0]
            message = f"the GPU has too little memory free; give a smaller batch size, or the CPU as device ({first})"
    except KeyboardInterrupt:
        print("interrupted; run it again to resume", file=sys.stderr)
        return 130
    rank = os.environ.get("RANK")
    print(f"error (rank {rank}): {message}" if rank else f"error: {message}", file=sys.stderr)
    return 2
