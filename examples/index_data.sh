#!/usr/bin/env bash
#SBATCH --job-name=index_data
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#
# Builds an index on many hosts: a Slurm array. Each task indexes its share of the input files.
#
#   export INPUT='shards/*.tar' OUTPUT=corpus/train RESOLUTION=256
#   export TEXT_TOKENIZER=start/tokenizer IMAGE_TOKENIZER=start/image_tokenizer
#   job=$(sbatch --parsable --array 0-7 --gpus 1 examples/index_data.sh)
#   sbatch --dependency "afterok:$job" --wrap ".venv/bin/python tools/index_data.py merge --output $OUTPUT"
#
# Submit from the repository, after `bash examples/setup.sh`. A task that is submitted again keeps its finished shards.
# To submit only some tasks, give their total number: TASKS=8 sbatch --array 3,5 ... An array only builds shards, even
# with a single task; it does not merge.
# Arguments are passed on to `tools/index_data.py build`. Outside of Slurm, one task builds everything and merges.
set -euo pipefail

: "${INPUT:=}"          # a folder, a file, or a glob of them
: "${OUTPUT:=}"         # prefix of the index
: "${TEXT_TOKENIZER:=}" # SentencePiece .model, or Hugging Face folder
: "${IMAGE_TOKENIZER:=}" # diffusers VQModel folder; empty for text alone
: "${RESOLUTION:=}"     # pixels; empty for text alone
: "${DEVICE:=}"         # empty: cuda where there is a GPU, else cpu
: "${TASK:=${SLURM_ARRAY_TASK_ID:-0}}"
: "${TASKS:=${SLURM_ARRAY_TASK_COUNT:-1}}"
ARRAY_END=${SLURM_ARRAY_TASK_MAX:-$TASK} # its highest task
: "${DRY_RUN:=0}"
# Slurm runs a copy of this file from its spool folder, so the repository is where the job was submitted.
: "${ROOT:=${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}}"
: "${PYTHON:=.venv/bin/python}"

fail() {
    echo "index_data: $*" >&2
    exit 2
}

[[ -d $ROOT/mars_megatron ]] || fail "ROOT is '$ROOT', which is not the repository; submit from there or set ROOT"
cd "$ROOT"
[[ -e $PYTHON ]] || fail "PYTHON is '$PYTHON', which does not exist; run bash examples/setup.sh first"
for name in INPUT OUTPUT TEXT_TOKENIZER; do
    [[ -n ${!name} ]] || fail "$name is empty; the head of this file says what it is"
done
[[ $TASK =~ ^[0-9]+$ && $TASKS =~ ^[1-9][0-9]*$ && $TASK -lt $TASKS ]] ||
    fail "TASK is '$TASK' of TASKS '$TASKS'; accepted: from 0 to TASKS - 1 (sbatch --array 0-7)"
[[ $ARRAY_END -lt $TASKS ]] ||
    fail "TASKS is '$TASKS', but the array goes up to task $ARRAY_END; for some tasks alone give the number of all of them\
 (TASKS=8 sbatch --array 3,5)"
[[ -n $IMAGE_TOKENIZER || -z $RESOLUTION ]] || fail "RESOLUTION is '$RESOLUTION', but IMAGE_TOKENIZER is empty"
[[ -z $IMAGE_TOKENIZER || $RESOLUTION =~ ^[1-9][0-9]*$ ]] ||
    fail "RESOLUTION is '$RESOLUTION'; with IMAGE_TOKENIZER it must be a number of pixels"
if [[ -z $DEVICE ]]; then
    DEVICE=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then DEVICE=cuda; fi
fi

command=("$PYTHON" tools/index_data.py build --input "$INPUT" --output "$OUTPUT" --text-tokenizer "$TEXT_TOKENIZER")
if [[ -n $IMAGE_TOKENIZER ]]; then
    command+=(--image-tokenizer "$IMAGE_TOKENIZER" --resolution "$RESOLUTION" --device "$DEVICE")
fi
if [[ -n ${SLURM_CPUS_ON_NODE:-} ]]; then command+=(--workers "$SLURM_CPUS_ON_NODE"); fi
if [[ $TASKS -gt 1 || -n ${SLURM_ARRAY_TASK_ID:-} ]]; then command+=(--shard "$TASK/$TASKS"); fi
command+=("$@")

if [[ $DRY_RUN == 1 ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
exec "${command[@]}"
