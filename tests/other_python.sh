#!/usr/bin/env bash
# Runs the checks that depend on the release of megatron-core on another installed Python than that of .venv: model,
# training, checkpoints, layouts, and checkpoints that move between the two.
#
#   bash tests/other_python.sh
#
# Variables: OTHER_PYTHON (the interpreter; default: the first of python3.12, 3.13 and 3.11 that is installed and of
# another version than .venv's), SETUP_SECONDS (time limit of the installation). The environment is made in
# .venv-<version>. If it cannot be made, the script says so, checks nothing and ends with 0.
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

# Looks into pyenv's folder too: pyenv puts only the selected versions on PATH.
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
