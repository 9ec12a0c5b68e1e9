#!/usr/bin/env bash
# Sets everything up (reusing what is there), then runs the tests.
#
#   bash tests/run.sh                          all but those marked long or gpu
#   bash tests/run.sh tests/unit/sequence -k plan   arguments go to pytest
#
# Knobs: those of examples/setup.sh, such as PYTHON and VENV for another Python than that of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${VENV:=.venv}"
VENV=$VENV bash examples/setup.sh

# Several ranks share the cores of one machine.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [[ $# -eq 0 ]]; then
    # These prove the CPU path, also on a machine with GPUs; the checks of the CUDA path are tests/gpu.
    export CUDA_VISIBLE_DEVICES=""
    # Files side by side; a file's tests share what is slow to make.
    workers=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    set -- --numprocesses "$workers" --maxprocesses 8 --dist loadfile tests/unit tests/distributed
fi
exec "$VENV/bin/python" -m pytest --durations=10 "$@"
