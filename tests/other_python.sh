#!/usr/bin/env bash
# The checks that depend on the release of megatron-core, on another Python than that of .venv, where one is installed:
# model, training, checkpoints, layouts, and checkpoints that move between the two.
#
#   bash tests/other_python.sh
#
# Knobs: OTHER_PYTHON (interpreter to start from; by default python3.12, 3.13 or 3.11, the first that is installed and
# of another version than .venv's), SETUP_SECONDS (after which its packages count as not to be had). Its environment is
# made in .venv-<version>; where it cannot be made, a line says so, and nothing is checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${OTHER_PYTHON:=}"
: "${SETUP_SECONDS:=900}"

version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

skip() {
    echo "other Python: skipped, $*"
    exit 0
}

# pyenv's too: it puts on PATH the versions alone that were chosen.
find_other() {
    local name candidate own
    own=$(version .venv/bin/python)
    for name in 3.12 3.13 3.11; do
        for candidate in "python$name" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$name".*/bin/python; do
            if [[ $name != "$own" && $(version "$candidate") == "$name" ]]; then
                echo "$candidate"
                return
            fi
        done
    done
}

bash examples/setup.sh
other=${OTHER_PYTHON:-$(find_other)}
[[ -n $other ]] || skip "no Python of another version than .venv's is installed"
name=$(version "$other")
[[ -n $name ]] || skip "OTHER_PYTHON is $other, which does not run"

status=0
PYTHON=$other VENV=.venv-$name timeout "$SETUP_SECONDS" bash examples/setup.sh || status=$?
((status != 124)) || skip "the packages of Python $name could not be installed in $SETUP_SECONDS seconds"
((status == 0)) || skip "examples/setup.sh does not succeed with Python $name"

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" CUDA_VISIBLE_DEVICES="" MARS_OTHER_PYTHON="$PWD/.venv/bin/python"
workers=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
exec ".venv-$name/bin/python" -m pytest --numprocesses "$workers" --maxprocesses 8 --dist loadfile --durations=5 \
    tests/unit/{compat,platform,model,checkpoint} tests/unit/training/test_{step,objective,callbacks,trainer}.py \
    tests/distributed/test_{other_python,checkpoints,layouts}.py
