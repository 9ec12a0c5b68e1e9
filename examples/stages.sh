#!/usr/bin/env bash
# The three stages of MARS in a chain on scikit-learn's handwritten digits: stage I at 16 pixels, stage II at 32, stage
# III from 16 to 32. Each stage is a recipe that starts from the checkpoint of the one before. Stage III is trained with
# other K and orders too, and all are scored.
#
#   bash examples/stages.sh
#
# Run it again after an interruption, and it resumes. Delete RUN_DIR to start over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RUN_DIR:=runs/stages}" # everything is written here
: "${RANKS:=2}"             # ranks: data parallel for the language model, tensor parallel for MARS
: "${SAMPLES:=}"            # images of each prompt that are scored; empty takes as many as in scores.json, else 5
: "${SWEEP:=1:raster 4:raster}" # K:ORDER or K:ORDER:SEED of further runs of stage III

# shellcheck source=examples/common.sh
source examples/common.sh

data=$RUN_DIR/data index=$RUN_DIR/index
text_tokenizer=$RUN_DIR/text.model image_tokenizer=$RUN_DIR/image_tokenizer
tokenizers=(--text-tokenizer "$text_tokenizer" --image-tokenizer "$image_tokenizer")

phase raw_data "$data/prompts.jsonl" python -m examples.digits.prepare --output "$data" --resolution 32
mapfile -t symbols <"$data/symbols.txt"
phase text_tokenizer "$text_tokenizer" python tools/train_tokenizer.py text \
    --input "$data/tokenizer.txt" --output "$text_tokenizer" --model-type bpe --vocab-size 256 --symbols "${symbols[@]}"
# One image tokenizer for both resolutions. One process at a time here: it may have all cores.
phase image_tokenizer "$image_tokenizer" env OMP_NUM_THREADS="$cores" python tools/train_tokenizer.py image \
    --input "$data/train" --output "$image_tokenizer" --resolution 16 32
phase index_text "$index/text.json" python tools/index_data.py build \
    --input "$data/text" --output "$index/text" --text-tokenizer "$text_tokenizer"
phase index_low "$index/low.json" env OMP_NUM_THREADS="$cores" python tools/index_data.py build \
    --input "$data/train" --output "$index/low" --resolution 16 "${tokenizers[@]}"
# Each picture at both resolutions: stage II takes the high one, stage III the pair.
phase index_pairs "$index/pairs.json" env OMP_NUM_THREADS="$cores" python tools/index_data.py build \
    --input "$data/train" --output "$index/pairs" --resolution 32 --low-resolution 16 "${tokenizers[@]}"

phase language_model "$RUN_DIR/base/finished" train "$RANKS" --recipe examples.digits.recipes.base \
    --data.path "$index/text" --data.text_tokenizer "$text_tokenizer" --checkpoint.dir "$RUN_DIR/base"

# stage NAME RECIPE START INDEX OPTION...: trains a stage from the run START.
stage() {
    phase "$1" "$RUN_DIR/$1/finished" train "$RANKS" --recipe "$2" --init-from "$RUN_DIR/$3" \
        --parallel.tensor "$RANKS" --data.path "$index/$4" --data.text_tokenizer "$text_tokenizer" \
        --data.image_tokenizer "$image_tokenizer" --checkpoint.dir "$RUN_DIR/$1" --checkpoint.interval 500 "${@:5}"
}
stage stage1 examples.digits.recipes.stage1 base low
stage stage2 examples.digits.recipes.stage2 stage1 pairs
stage stage3 examples.digits.recipes.stage3 stage2 pairs
names=(stage3)
for variant in $SWEEP; do
    IFS=: read -r k order seed <<<"$variant"
    name=stage3_${variant//:/_}
    names+=("$name")
    settings=(--image.next_k "$k" --image.order "$order")
    if [[ -n $seed ]]; then settings+=(--training.seed "$seed" --data.seed "$seed"); fi
    stage "$name" examples.digits.recipes.stage3 stage2 pairs "${settings[@]}"
done

# What is in scores.json is not scored again; another SWEEP adds to it.
python -m examples.digits.score_stages --run-dir "$RUN_DIR" --stage3 "${names[@]}" \
    ${SAMPLES:+--samples-per-prompt "$SAMPLES"}
phase samples "$RUN_DIR/samples/sheet.png" python tools/generate.py --checkpoint "$RUN_DIR/stage1" \
    --prompts "$data/shown_prompts.txt" --num-images 8 --resolution high --super-resolution "$RUN_DIR/stage3" \
    --keep-low --output "$RUN_DIR/samples"
