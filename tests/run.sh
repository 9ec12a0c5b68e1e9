#!/usr/bin/env bash
# Sets everything up (reusing what is there), then runs the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
bash tests/run.sh            all tests but those marked long or gpu; at most 15 minutes on two idle cores
bash tests/run.sh --quick    the files of tests/quick.txt, some of every package; at most 3 minutes on two idle cores
bash tests/run.sh ARGUMENTS  passes the arguments to pytest, such as tests/unit/sequence -k plan
bash tests/run.sh --help     only prints this text

Examples of arguments:
  -m long tests              the tests that take minutes each
  -m gpu tests               the tests on an NVIDIA GPU
  --lf                       those that failed in the last run
  tests/distributed -x       real ranks, up to the first failure
  --durations 30             the times of the 30 slowest tests

It first runs examples/setup.sh, which does nothing if everything is up to date. OMP_NUM_THREADS is 1 unless it is set.
Variables are those of examples/setup.sh, such as PYTHON and VENV for another Python than that of .venv.
Time limits of tests grow with the load of the machine; --timeout SECONDS sets them.
END
}

case "${1:-}" in
    -h | --help)
        usage
        exit 0
        ;;
esac

: "${VENV:=.venv}"
VENV=$VENV bash examples/setup.sh

# Several ranks share the cores of one machine.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [[ $# -eq 0 || "$1" == --quick ]]; then
    # These prove the CPU path, also on a machine with GPUs; the checks of the CUDA path are tests/gpu.
    export CUDA_VISIBLE_DEVICES=""
    # Files side by side; a file's tests share what is slow to make.
    workers=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    side_by_side=(--numprocesses "$workers" --maxprocesses 8 --dist loadfile)
    if [[ $# -eq 0 ]]; then
        set -- "${side_by_side[@]}" tests/unit tests/distributed
    else
        shift
        set -- "${side_by_side[@]}" @tests/quick.txt "$@"
    fi
fi
exec "$VENV/bin/python" -m pytest --durations=10 "$@"
