#!/usr/bin/env bash
# Makes .venv, installs the pinned dependencies and builds csrc/. Does nothing when all of it is there.
#
#   bash examples/setup.sh
#
# Needs Python >= 3.11 with its headers, pip and a C++ compiler. From 3.12 on megatron-core is 0.19, else 0.16.
# Knobs: PYTHON (interpreter to start from), VENV (folder of the environment), TORCH (what pip installs for torch;
# default chosen below).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

given=${PYTHON:-}
: "${PYTHON:=python3}"
: "${VENV:=.venv}"
: "${TORCH:=}"
torch_version=2.13.0
torch_cpu_index=https://download.pytorch.org/whl/cpu
python=$VENV/bin/python
stamp=$VENV/.setup-complete

fail() {
    echo "setup: $*" >&2
    exit 1
}

say() {
    echo "setup: $* (${SECONDS} s)"
}

# pip shows its progress bars on a terminal and stays quiet in a log.
pip_install() {
    local quiet=(-q)
    if [[ -t 1 ]]; then quiet=(); fi
    "$python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} "$@"
}

# What decides the environment: when it changes, the steps below run again.
fingerprint() {
    "$1" - <<'PYTHON_CODE'
import glob, hashlib, os, sys

names = ["pyproject.toml", "setup.py", "examples/setup.sh", *glob.glob("requirements*.txt"), *glob.glob("csrc/*")]
digest = hashlib.sha256(f"{sys.version} {os.getcwd()}".encode())
for name in sorted(names):
    with open(name, "rb") as file:
        digest.update(name.encode() + b"\0" + file.read())
print(digest.hexdigest())
PYTHON_CODE
}

version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# An environment of one Python is not quietly used for another.
check_version() {
    if [[ -z $given || ! -x $python ]] || ! command -v "$given" >/dev/null; then return; fi
    [[ $(version "$given") == "$(version "$python")" ]] ||
        fail "$VENV is of Python $(version "$python"), PYTHON is $given; set VENV to another folder, or remove $VENV"
}

# Whether csrc/ is built for this Python; extensions for others may lie beside it.
built() {
    [[ -f mars_megatron/_C$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') ]]
}

complete() {
    [[ -x $python && -f $stamp ]] && built && [[ $(cat "$stamp") == "$(fingerprint "$python")" ]]
}

check_machine() {
    command -v "$PYTHON" >/dev/null || fail "PYTHON is $PYTHON, which is not there; give a Python >= 3.11"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "PYTHON is $("$PYTHON" --version); give a Python >= 3.11"
    "$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "the headers of $PYTHON are missing; install them (Debian: python3-dev)"
    command -v "${CXX:-c++}" >/dev/null || fail "there is no C++ compiler; install one (Debian: g++) or set CXX"
}

make_venv() {
    if [[ -x $python ]]; then return; fi
    say "making $VENV"
    rm -rf "$VENV"
    if "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
        "$PYTHON" -m venv "$VENV"
        return
    fi
    # Debian without python3-venv: let the interpreter's own pip install a pip.
    local pip
    pip=$("$PYTHON" -c 'import os, pip; print(os.path.dirname(pip.__file__))') ||
        fail "$PYTHON has neither ensurepip nor pip; install one (Debian: python3-venv)"
    "$PYTHON" -m venv --without-pip "$VENV"
    "$python" "$pip" install -q --disable-pip-version-check --ignore-installed pip
}

has_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU
}

# Before anything that depends on torch, or pip would choose the build.
install_torch() {
    if "$python" -c 'import torch' 2>/dev/null; then return; fi
    if [[ -n $TORCH ]]; then
        say "installing $TORCH"
        pip_install "$TORCH"
    elif has_gpu; then
        say "installing torch for the NVIDIA GPU"
        pip_install "torch==$torch_version"
    elif [[ $(uname -s) != Linux ]]; then
        say "installing torch"
        pip_install "torch==$torch_version"
    else
        say "installing the CPU build of torch"
        pip_install "torch==$torch_version+cpu" 2>/dev/null ||
            pip_install --index-url "$torch_cpu_index" "torch==$torch_version+cpu" 2>/dev/null || {
            say "no CPU build of torch $torch_version for this Python is to be had: installing the CUDA build (3 GB)," \
                "which runs on a CPU too"
            pip_install "torch==$torch_version"
        }
    fi || fail "torch could not be installed; set TORCH to the requirement that pip shall install"
}

check_version
if complete; then
    exit 0
fi
rm -f "$stamp"
check_machine
make_venv
install_torch
say "installing the dependencies"
pip_install -r requirements.txt -r requirements-dev.txt
say "building csrc/"
pip_install --no-build-isolation --no-deps -e .
built || fail "the build left no mars_megatron/_C for $("$python" --version)"
fingerprint "$python" >"$stamp"
say "done"
