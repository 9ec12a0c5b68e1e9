# shellcheck shell=bash
# What the example scripts share; sourced at their beginning, from the root of the repository.
#
#   RUN_DIR   everything is written here; set by the script
#   UNTIL     name of the last phase to run; all of them if empty

bash examples/setup.sh
# For phases of one process, which may have all cores. Of several each has one.
# shellcheck disable=SC2034  # of the sourcing scripts
cores=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"
export PATH="$PWD/.venv/bin:$PATH"
mkdir -p "$RUN_DIR"

# phase NAME OUTPUT COMMAND...: runs the command unless its output is there, and notes its seconds.
phase() {
    local name=$1 output=$2 began
    shift 2
    if [[ -e $output ]]; then
        echo "== $name: $output is there"
    else
        echo "== $name"
        began=$(date +%s.%N)
        "$@"
        if [[ ! -e $output ]]; then
            echo "$name stopped before it was done; run this script again to resume" >&2
            exit 1
        fi
        printf '%s %s %s\n' "$name" "$began" "$(date +%s.%N)" >>"$RUN_DIR/phases.txt"
    fi
    if [[ $name == "${UNTIL:-}" ]]; then
        echo "== done until $name"
        exit 0
    fi
}

# train RANKS OPTION...: a training run on this machine.
train() {
    local ranks=$1
    shift
    torchrun --standalone --nproc-per-node "$ranks" -m mars_megatron.train "$@"
}
