#!/usr/bin/env bash
# Runs the paper's comparisons at small scale, and writes results.md with plots.
#
#   bash examples/reproduce/run.sh
#
# Run it again after an interruption, and it resumes. Delete RUN_DIR to start over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${RUN_DIR:=runs/reproduce}" # everything is written here
: "${JOBS:=2}"                 # training runs at the same time, each on one core

digits=$RUN_DIR/digits
# The three stages, and a sweep of K.
RUN_DIR=$RUN_DIR/stages UNTIL="" SAMPLES=20 SWEEP="1:raster 4:raster 4:regions:2 4:raster:2 2:regions 8:regions" \
    bash examples/stages.sh
# Pictures, tokenizers and the language model of the quickstart, which shall know here what its words mean.
RUN_DIR=$digits BASE="--training.steps 2000" UNTIL=language_model_score bash examples/quickstart.sh

# shellcheck source=examples/common.sh
source examples/common.sh
phase index_held_out "$digits/index/held_out.json" python tools/index_data.py build \
    --input "$digits/data/held_out" --output "$digits/index/held_out" --resolution 16 \
    --text-tokenizer "$digits/text.model" --image-tokenizer "$digits/image_tokenizer"
python -m examples.reproduce.train --run-dir "$RUN_DIR" --jobs "$JOBS"
python -m examples.reproduce.measure --run-dir "$RUN_DIR"
python -m examples.reproduce.report --run-dir "$RUN_DIR"
