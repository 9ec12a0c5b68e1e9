"""`torchrun -m mars_megatron.train --recipe NAME --section.setting value ...`: train a model."""

from __future__ import annotations

import os
import sys

from mars_megatron.program import EXIT_CODES, exit_code, quiet


def main() -> int:
    """Parse the command line and train; returns the exit code, see `mars_megatron.program`."""
    return exit_code(train, tool=False)


def train() -> None:
    """The training run of the command line."""
    parent = os.getppid()
    from mars_megatron.recipes.command_line import parse

    config = parse(epilog=EXIT_CODES)
    quiet()  # `python -m mars_megatron.platform` says once what is missing
    from mars_megatron.platform.processes import end_with_launcher
    from mars_megatron.training import Trainer, shut_down

    end_with_launcher(parent)
    Trainer(config).run()
    shut_down()


def run_as_program() -> None:
    """End with the code of `main`; after an error at once, so that the launcher can end the other ranks."""
    try:
        code = main()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)  # torch's names the rank
        code = 1
    if code and "torch" in sys.modules:  # nothing waits before
        from mars_megatron.platform.processes import exit_at_once

        exit_at_once(code)
    sys.exit(code)


if __name__ == "__main__":
    run_as_program()
