#!/usr/bin/env bash
#SBATCH --job-name=mars
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#
# Trains a recipe: under Slurm on all nodes of the job, elsewhere on this machine.
#
#   DATA_PATH=corpus/train INIT_FROM=runs/base sbatch --nodes 8 --gpus-per-node 8 examples/pretrain_mars.sh
#   DEVICE=cpu RECIPE=tiny DATA_PATH=corpus/train bash examples/pretrain_mars.sh --training.steps 20
#
# Submit from the repository, after `bash examples/setup.sh`. Arguments are settings of the run and take precedence
# over the variables below. A complete checkpoint in OUTPUT is resumed. DRY_RUN=1 checks everything and prints the commands.
set -euo pipefail

# The run and its initialisation.
: "${RECIPE:=mars_7b_stage1}"
: "${CONFIG:=}"          # YAML file of settings, over the recipe
: "${DATA_PATH:=}"       # prefix of the index made by tools/index_data.py; empty: CONFIG names the data
: "${TEXT_TOKENIZER:=}"  # empty: not compared with the index's
: "${IMAGE_TOKENIZER:=}" # empty: not compared with the index's
: "${INIT_FROM:=}"       # checkpoint to start from; "random" initialises at random
: "${OUTPUT:=runs/$RECIPE}"
: "${SAVE_INTERVAL:=1000}" # steps
: "${STEPS:=}"             # empty: the recipe's

# What it runs on. Data parallel is what TENSOR x PIPELINE leave of NNODES x RANKS_PER_NODE.
: "${DEVICE:=cuda}"
: "${NNODES:=${SLURM_JOB_NUM_NODES:-1}}"
: "${RANKS_PER_NODE:=}" # empty: the node's GPUs; 2 on the CPU
: "${TENSOR:=}"         # empty: the recipe's
: "${PIPELINE:=}"       # empty: the recipe's
: "${EXPERT:=}"         # expert-parallel size, within data parallel; empty: the recipe's
: "${DRY_RUN:=0}"

# Slurm runs a copy of this file from its spool folder, so the repository is where the job was submitted.
: "${ROOT:=${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}}"
: "${PYTHON:=.venv/bin/python}"
: "${MASTER_PORT:=$((20000 + ${SLURM_JOB_ID:-0} % 20000))}"

fail() {
    echo "pretrain_mars: $*" >&2
    exit 2
}

need() { # NAME PATH HINT
    [[ -e $2 ]] || fail "$1 is '$2', which does not exist; $3"
}

[[ -d $ROOT/mars_megatron ]] || fail "ROOT is '$ROOT', which is not the repository; submit from there or set ROOT"
cd "$ROOT"

# Paths.
need PYTHON "$PYTHON" "run bash examples/setup.sh first"
if [[ -n $DATA_PATH ]]; then
    for suffix in bin idx json; do
        need DATA_PATH "$DATA_PATH.$suffix" "give the prefix of an index made by tools/index_data.py"
    done
elif [[ -z $CONFIG ]]; then
    fail "DATA_PATH is empty; give the prefix of an index made by tools/index_data.py, or a CONFIG with data.blend"
fi
if [[ -n $CONFIG ]]; then need CONFIG "$CONFIG" "give a YAML file or leave it empty"; fi
if [[ -n $TEXT_TOKENIZER ]]; then need TEXT_TOKENIZER "$TEXT_TOKENIZER" "give the tokenizer or leave it empty"; fi
if [[ -n $IMAGE_TOKENIZER ]]; then need IMAGE_TOKENIZER "$IMAGE_TOKENIZER" "give the tokenizer or leave it empty"; fi
if [[ $INIT_FROM == random ]]; then
    INIT_FROM=
elif [[ -n $INIT_FROM ]]; then
    need INIT_FROM "$INIT_FROM" "give a checkpoint folder, or random"
elif [[ $RECIPE == mars_7b_* ]]; then
    fail "INIT_FROM is empty, so the frozen text expert of $RECIPE would be random; give a checkpoint folder, or random"
fi

# Topology.
case $DEVICE in
    cuda)
        if [[ -z $RANKS_PER_NODE ]]; then
            command -v nvidia-smi >/dev/null || fail "RANKS_PER_NODE is empty and nvidia-smi is not there to count GPUs; set it"
            RANKS_PER_NODE=$(nvidia-smi -L | grep -c '^GPU' || true)
        fi
        ;;
    cpu) : "${RANKS_PER_NODE:=2}" ;;
    *) fail "DEVICE is '$DEVICE'; accepted: cuda, cpu" ;;
esac
for name in NNODES RANKS_PER_NODE SAVE_INTERVAL; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name is '${!name}'; accepted: a number above 0"
done
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    launcher=slurm
    [[ $NNODES -eq ${SLURM_JOB_NUM_NODES:-1} ]] ||
        fail "NNODES is $NNODES, but the job has ${SLURM_JOB_NUM_NODES:-1} nodes; set sbatch --nodes instead"
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
elif [[ $NNODES -gt 1 ]]; then
    launcher=slurm
    [[ $DRY_RUN == 1 ]] || fail "NNODES is $NNODES outside of a Slurm job; accepted: 1, or submit with sbatch --nodes $NNODES"
    MASTER_ADDR=FIRST_NODE
else
    launcher=local
fi

# Settings.
settings=(--recipe "$RECIPE")
if [[ -n $CONFIG ]]; then settings+=(--config "$CONFIG"); fi
if [[ -n $DATA_PATH ]]; then settings+=(--data.path "$DATA_PATH"); fi
settings+=(
    --checkpoint.dir "$OUTPUT"
    --checkpoint.interval "$SAVE_INTERVAL"
    --training.device "$DEVICE"
)
if [[ -n $TEXT_TOKENIZER ]]; then settings+=(--data.text_tokenizer "$TEXT_TOKENIZER"); fi
if [[ -n $IMAGE_TOKENIZER ]]; then settings+=(--data.image_tokenizer "$IMAGE_TOKENIZER"); fi
if [[ -n $INIT_FROM ]]; then settings+=(--checkpoint.init_from "$INIT_FROM"); fi
if [[ -n $STEPS ]]; then settings+=(--training.steps "$STEPS"); fi
if [[ -n $TENSOR ]]; then settings+=(--parallel.tensor "$TENSOR"); fi
if [[ -n $PIPELINE ]]; then settings+=(--parallel.pipeline "$PIPELINE"); fi
if [[ -n $EXPERT ]]; then settings+=(--parallel.expert "$EXPERT"); fi
settings+=("$@")

# The program's own validation, for this many ranks, before any of them starts.
code=0
WORLD_SIZE=$((NNODES * RANKS_PER_NODE)) "$PYTHON" -m mars_megatron.train "${settings[@]}" --print-config >/dev/null ||
    code=$?
[[ $code -ne 2 ]] || fail "the settings do not fit $NNODES nodes x $RANKS_PER_NODE ranks (above)"
[[ $code -eq 0 ]] || exit "$code" # interrupted

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# megatron-core orders communication and computation by it.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"

torchrun=("$PYTHON" -m torch.distributed.run --nproc-per-node "$RANKS_PER_NODE")
train=(-m mars_megatron.train "${settings[@]}")
if [[ $launcher == slurm ]]; then
    # One task per node, each one torchrun that starts the node's ranks; torchrun reads PET_NODE_RANK.
    # shellcheck disable=SC2016
    command=(
        srun --nodes "$NNODES" --ntasks-per-node 1 --kill-on-bad-exit=1 --wait=60
        bash -c 'PET_NODE_RANK=$SLURM_NODEID exec "$@"' task
        "${torchrun[@]}" --nnodes "$NNODES" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" "${train[@]}"
    )
else
    command=("${torchrun[@]}" --standalone "${train[@]}")
fi

if [[ $DRY_RUN == 1 ]]; then
    echo "cd $(printf '%q' "$PWD")"
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
mkdir -p "$OUTPUT"
exec "${command[@]}"
