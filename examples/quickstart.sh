#!/usr/bin/env bash
# From raw images to scored samples on one machine: installs everything, then runs the whole pipeline on scikit-learn's
# handwritten digits. After the installation it took 408 seconds on two idle cores of an Intel Xeon.
#
#   bash examples/quickstart.sh
#
# Run it again after an interruption, and it resumes. Delete RUN_DIR to start over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RUN_DIR:=runs/quickstart}" # everything is written here
: "${RANKS:=2}"                 # ranks: data parallel for the language model, tensor parallel for MARS
: "${BASE:=}"                   # settings of the training of the language model

# shellcheck source=examples/common.sh
source examples/common.sh

data=$RUN_DIR/data index=$RUN_DIR/index
text_tokenizer=$RUN_DIR/text.model image_tokenizer=$RUN_DIR/image_tokenizer
read -ra base <<<"$BASE"

phase raw_data "$data/prompts.jsonl" python -m examples.digits.prepare --output "$data"
mapfile -t symbols <"$data/symbols.txt"
phase text_tokenizer "$text_tokenizer" python tools/train_tokenizer.py text \
    --input "$data/tokenizer.txt" --output "$text_tokenizer" --model-type bpe --vocab-size 256 --symbols "${symbols[@]}"
# One process at a time here: it may have all cores.
phase image_tokenizer "$image_tokenizer" env OMP_NUM_THREADS="$cores" python tools/train_tokenizer.py image \
    --input "$data/train" --output "$image_tokenizer" --resolution 16
phase index_text "$index/text.json" python tools/index_data.py build \
    --input "$data/text" --output "$index/text" --text-tokenizer "$text_tokenizer"
phase index_images "$index/images.json" env OMP_NUM_THREADS="$cores" python tools/index_data.py build \
    --input "$data/train" --output "$index/images" --resolution 16 \
    --text-tokenizer "$text_tokenizer" --image-tokenizer "$image_tokenizer"

phase language_model "$RUN_DIR/base/finished" train "$RANKS" --recipe examples.digits.recipes.base \
    --data.path "$index/text" --data.text_tokenizer "$text_tokenizer" --checkpoint.dir "$RUN_DIR/base" \
    --checkpoint.interval 500 "${base[@]}"
phase language_model_score "$RUN_DIR/base/scores/facts.json" python tools/evaluate.py facts "$RUN_DIR/base" \
    --facts "$data/facts.jsonl" --output "$RUN_DIR/base/scores"

phase mars "$RUN_DIR/mars/finished" train "$RANKS" --recipe examples.digits.recipes.mars --parallel.tensor "$RANKS" \
    --data.path "$index/images" --data.text_tokenizer "$text_tokenizer" --data.image_tokenizer "$image_tokenizer" \
    --checkpoint.init_from "$RUN_DIR/base" --checkpoint.dir "$RUN_DIR/mars" --checkpoint.interval 500 \
    --logging.sample_interval 500 --logging.sample_prompts '["a handwritten digit three", "一个手写数字七"]'

phase samples "$RUN_DIR/samples.png" torchrun --standalone --nproc-per-node "$RANKS" tools/generate.py \
    --checkpoint "$RUN_DIR/mars" --prompts "$data/shown_prompts.txt" --num-images 10 \
    --output "$RUN_DIR/samples" --sheet "$RUN_DIR/samples.png"
cat >"$RUN_DIR/suites.yaml" <<EOF
prompt_fidelity: {prompts: $data/prompts.jsonl, images: $data/held_out, samples_per_prompt: 5, controls: true}
captions: {images: $data/held_out, label_words: $data/label_words.json}
text: {base: $RUN_DIR/base, texts: $data/prompts.jsonl}
EOF
# One rank: the text logits of base and MARS must be equal to the last bit.
phase score "$RUN_DIR/mars/scores/text.json" python tools/evaluate.py all "$RUN_DIR/mars" \
    --config "$RUN_DIR/suites.yaml" --output "$RUN_DIR/mars/scores"
python -m examples.digits.report --run "$RUN_DIR" --output "$RUN_DIR/report.json"
