"""Starts a job of `jobs.py` that a test kills: `python -m tests.support.distributed.start JOB ARGUMENTS`."""

from __future__ import annotations

import json
import sys

from tests.support.distributed import jobs

if __name__ == "__main__":
    getattr(jobs, sys.argv[1])(**json.loads(sys.argv[2]))
