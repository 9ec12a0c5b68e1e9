#!/usr/bin/env bash
# Two coloured handwritten digits in a spatial relation ("a red three left of a blue seven", English, Chinese): builds
# the benchmark, trains a small language model and a MARS model, and scores seen and unseen combinations.
#
#   bash examples/compositional.sh
#
# Run it again after an interruption, and it resumes. Delete RUN_DIR to start over. Variants:
#   RUN_DIR=runs/forms BUILD="--caption-forms 4" bash examples/compositional.sh
#   RUN_DIR=runs/pairs BUILD="--unseen-pairs 4" bash examples/compositional.sh
#   RUN_DIR=runs/experts MARS="--experts.visual 4" bash examples/compositional.sh
#   RUN_DIR=runs/frozen MARS="--freeze.text true --freeze.norms true" bash examples/compositional.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RUN_DIR:=runs/compositional}" # everything is written here
: "${RANKS:=2}"                    # data-parallel ranks
: "${BUILD:=}"                     # options of examples.compositional.build
: "${MARS:=}"                      # settings of the training of MARS
: "${SAMPLES:=2}"                  # images scored of each prompt

# shellcheck source=examples/common.sh
source examples/common.sh

data=$RUN_DIR/data index=$RUN_DIR/index
text_tokenizer=$RUN_DIR/text.model image_tokenizer=$RUN_DIR/image_tokenizer
read -ra build <<<"$BUILD"
read -ra mars <<<"$MARS"

phase raw_data "$data/prompts.jsonl" python -m examples.compositional.build --output "$data" "${build[@]}"
mapfile -t symbols <"$data/symbols.txt"
phase text_tokenizer "$text_tokenizer" python tools/train_tokenizer.py text --input "$data/tokenizer.txt" \
    --output "$text_tokenizer" --model-type bpe --vocab-size 128 --at-most --symbols "${symbols[@]}"
# One process at a time here: it may have all cores.
phase image_tokenizer "$image_tokenizer" env OMP_NUM_THREADS="$cores" python tools/train_tokenizer.py image \
    --input "$data/train" --output "$image_tokenizer" --resolution 32 --max-images 6000 --batch-size 16 \
    --warmup-steps 300 --steps 500
phase index_text "$index/text.json" python tools/index_data.py build \
    --input "$data/text" --output "$index/text" --text-tokenizer "$text_tokenizer"
phase index_images "$index/images.json" env OMP_NUM_THREADS="$cores" python tools/index_data.py build \
    --input "$data/train" --output "$index/images" --resolution 32 \
    --text-tokenizer "$text_tokenizer" --image-tokenizer "$image_tokenizer"

phase language_model "$RUN_DIR/base/finished" train "$RANKS" --recipe examples.compositional.recipes.base \
    --data.path "$index/text" --data.text_tokenizer "$text_tokenizer" --checkpoint.dir "$RUN_DIR/base" \
    --checkpoint.interval 500
phase language_model_score "$RUN_DIR/base/scores/facts.json" python tools/evaluate.py facts "$RUN_DIR/base" \
    --facts "$data/facts.jsonl" --output "$RUN_DIR/base/scores"

phase mars "$RUN_DIR/mars/finished" train "$RANKS" --recipe examples.compositional.recipes.mars \
    --data.path "$index/images" --data.text_tokenizer "$text_tokenizer" --data.image_tokenizer "$image_tokenizer" \
    --checkpoint.init_from "$RUN_DIR/base" --checkpoint.dir "$RUN_DIR/mars" --checkpoint.interval 500 "${mars[@]}"
phase score "$RUN_DIR/scores/compositional.json" torchrun --standalone --nproc-per-node "$RANKS" tools/evaluate.py \
    examples.compositional.suite.Compositional "$RUN_DIR/mars" --tensor 1 --benchmark "$data" \
    --samples-per-prompt "$SAMPLES" --grid "$RUN_DIR/scored.png" --output "$RUN_DIR/scores"
phase samples "$RUN_DIR/samples.png" torchrun --standalone --nproc-per-node "$RANKS" tools/generate.py \
    --checkpoint "$RUN_DIR/mars" --prompts "$data/shown_prompts.txt" --num-images 8 \
    --output "$RUN_DIR/samples" --sheet "$RUN_DIR/samples.png"
echo "scores: $RUN_DIR/scores/compositional.json  pictures: $RUN_DIR/samples.png, $RUN_DIR/scored.png"
