"""`torchrun -m mars_megatron.train --recipe NAME --section.setting value ...`: train a model."""

from __future__ import annotations

import os
import sys
import warnings


def main() -> int:
    """Parse the command line and train; returns the exit code."""
    parent = os.getppid()
    from mars_megatron.recipes.command_line import parse

    config = parse()
    # megatron-core warns of every GPU library that is missing; `python -m mars_megatron.platform` says it once.
    warnings.filterwarnings("ignore", module=r"megatron\.core.*")
    from mars_megatron.platform.processes import end_with_launcher
    from mars_megatron.training import Trainer, shut_down

    end_with_launcher(parent)
    try:
        Trainer(config).run()
    except (ValueError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        print(f"error (rank {rank}): {error}", file=sys.stderr)
        return 2
    shut_down()
    return 0


def run_as_program() -> None:
    """End with the code of `main`; after an error at once, so that the launcher can end the other ranks."""
    try:
        code = main()
    except (Exception, KeyboardInterrupt) as error:
        sys.excepthook(type(error), error, error.__traceback__)  # torch's names the rank
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if code:
        from mars_megatron.platform.processes import exit_at_once

        exit_at_once(code)


if __name__ == "__main__":
    run_as_program()
