"""Shared by all tests: one thread per process, and no rank variables of a surrounding job."""

import os

# Before torch is imported anywhere: several test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test that needs these sets them itself; left over from a torchrun or Slurm job they would change results.
for _name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(_name, None)
