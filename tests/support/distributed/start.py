"""Starts a job of `jobs.py` on this rank: `python -m tests.support.distributed.start JOB ARGUMENTS RESULT`.

Light to import: every checkpoint starts a process that imports the main module of the saving one again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Run the named job and let rank 0 write its result."""
    import torch

    from mars_megatron.training import shut_down
    from tests.support.distributed import jobs

    job, arguments, result = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    value = getattr(jobs, job)(**arguments)
    if torch.distributed.get_rank() == 0:
        result.write_text(json.dumps(value))
    shut_down()


if __name__ == "__main__":
    main()
