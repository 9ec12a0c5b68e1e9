"""`torchrun -m mars_megatron.train --recipe NAME --section.setting value ...`: train a model."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def main() -> int:
    """Parse the command line and train; returns the exit code."""
    from mars_megatron.config.cli import parse

    config = parse()
    # megatron-core warns of every GPU library that is missing; `python -m mars_megatron.platform` says it once.
    warnings.filterwarnings("ignore", module=r"megatron\.core.*")
    logging.getLogger("megatron.core.rerun_state_machine").setLevel(logging.ERROR)
    from mars_megatron.training import Trainer, shut_down

    try:
        Trainer(config).run()
    except (ValueError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        print(f"error (rank {rank}): {error}", file=sys.stderr)
        return 2
    shut_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
