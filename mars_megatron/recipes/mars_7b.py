"""The three stages of MARS-7B (arXiv 2407.07614) on Qwen-7B.

From the paper: model shape, vocabulary, resolutions, pairs, epochs, global batches, AdamW with beta2 0.95, weight
decay 0.1, peak learning rate 1e-4 and warm-up ratio 0.01. What it does not publish is an assumption, and stands
below as a named constant or is called one where it is set.

The paper counts a batch in samples; here a step is a number of packed micro-batches, each filled with whole samples
up to `data.micro_batch_tokens`. So `tokens per sample x samples per micro-batch` gives the budget, and `global batch
/ samples per micro-batch` the micro-batches of a step. A corpus with longer or shorter captions than assumed changes
the samples per step in proportion; `tools/index_data.py` prints the token counts to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import (
    CheckpointConfig,
    DataConfig,
    ImageConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    TaskWeights,
    TrainingConfig,
    VocabularyConfig,
)

DOWNSAMPLE = 16  # f of the paper's VQ-GAN
IMAGE_MARKS = 2  # BOI and EOI

# Assumptions: mean caption lengths with the Qwen tokenizer, EOS included (stage II has "better captions").
STAGE1_CAPTION_TOKENS = 62
STAGE2_CAPTION_TOKENS = 126
# Assumptions of stage III, for which the paper gives neither resolutions nor a batch nor K.
STAGE3_LOW_RESOLUTION = 512
STAGE3_HIGH_RESOLUTION = 1024
STAGE3_GLOBAL_BATCH = 1536
STAGE3_NEXT_K = 4


@dataclass(frozen=True)
class Stage:
    """One stage as the paper counts it.

    Args:
        pairs: Samples of the corpus.
        epochs: Passes over it.
        global_batch: Samples of one optimiser step.
        tokens_per_sample: Mean rows of one sample, an assumption.
        samples_per_micro_batch: Samples in one packed sequence; free to choose, must divide global_batch.
    """

    pairs: int
    epochs: int
    global_batch: int
    tokens_per_sample: int
    samples_per_micro_batch: int

    @property
    def steps(self) -> int:
        """Optimiser steps for all epochs."""
        return -(-self.pairs * self.epochs // self.global_batch)

    @property
    def micro_batches(self) -> int:
        """Packed micro-batches of one step."""
        assert self.global_batch % self.samples_per_micro_batch == 0
        return self.global_batch // self.samples_per_micro_batch

    @property
    def micro_batch_tokens(self) -> int:
        """Rows of one packed micro-batch, with the rows that packing keeps free."""
        return self.tokens_per_sample * self.samples_per_micro_batch + RESERVED_ROWS


def image_tokens(resolution: int) -> int:
    """Codes of one square image."""
    return ImageConfig(resolution=resolution, downsample=DOWNSAMPLE).num_codes


STAGE1 = Stage(
    pairs=200_000_000,
    epochs=1,
    global_batch=4096,
    tokens_per_sample=image_tokens(256) + IMAGE_MARKS + STAGE1_CAPTION_TOKENS,
    samples_per_micro_batch=16,
)
STAGE2 = Stage(
    pairs=50_000_000,
    epochs=2,
    global_batch=1536,
    tokens_per_sample=image_tokens(512) + IMAGE_MARKS + STAGE2_CAPTION_TOKENS,
    samples_per_micro_batch=8,
)
STAGE3 = Stage(
    pairs=10_000_000,
    epochs=1,
    global_batch=STAGE3_GLOBAL_BATCH,
    tokens_per_sample=(
        image_tokens(STAGE3_LOW_RESOLUTION)
        + image_tokens(STAGE3_HIGH_RESOLUTION)
        + 2 * IMAGE_MARKS
        + STAGE2_CAPTION_TOKENS
    ),
    samples_per_micro_batch=2,
)


def mars_7b_stage1() -> RunConfig:
    """Stage I: 200M pairs at 256 px, text-to-image and captioning, 1 epoch, 4096 samples a step.

    Start from a language model with `--checkpoint.init_from`; without it the frozen text expert is random.
    """
    return _run(STAGE1, resolution=256)


def mars_7b_stage2() -> RunConfig:
    """Stage II: 50M pairs with better captions at 512 px, 2 epochs, 1536 samples a step.

    Goes on from stage I: give its folder as checkpoint.init_from.
    """
    return replace(_run(STAGE2, resolution=512), checkpoint=CheckpointConfig(init_visual="keep"))


def mars_7b_stage3() -> RunConfig:
    """Stage III: cascaded super-resolution on 10M (low, caption, high) triplets, 1 epoch.

    Goes on from stage II: give its folder as checkpoint.init_from. The resolutions (512 to 1024 px), the batch, and of
    next-K-token prediction both K and the order are assumptions, as the paper gives none.
    """
    run = _run(STAGE3, resolution=STAGE3_HIGH_RESOLUTION)
    return replace(
        run,
        image=replace(run.image, low_resolution=STAGE3_LOW_RESOLUTION, next_k=STAGE3_NEXT_K, order="regions"),
        data=replace(run.data, tasks=TaskWeights(t2i=0.0, i2t=0.0, sr=1.0)),
        checkpoint=CheckpointConfig(init_visual="keep"),
    )


def _run(stage: Stage, resolution: int) -> RunConfig:
    return RunConfig(
        model=ModelConfig(
            num_layers=32,
            hidden_size=4096,
            ffn_hidden_size=11008,
            num_attention_heads=32,
            num_query_groups=32,
            qkv_bias=True,
            norm_eps=1e-6,
            rope_base=10000.0,
        ),
        # 151,936 text rows + 8,192 codes and 6 specials padded to 8,200 = 160,136 rows.
        vocabulary=VocabularyConfig(text_size=151_936, codebook_size=8192, pad_multiple=8),
        image=ImageConfig(resolution=resolution, downsample=DOWNSAMPLE),
        # The even task mixture and the caption dropout are assumptions.
        data=DataConfig(
            tasks=TaskWeights(t2i=0.5, i2t=0.5),
            caption_dropout=0.1,
            micro_batch_tokens=stage.micro_batch_tokens,
            validation_fraction=0.0001,
            num_workers=4,
        ),
        # Fits the 14B parameters on GPUs of 80 GB; the distributed optimiser stands for the paper's ZeRO-3.
        parallel=ParallelConfig(tensor=4, sequence=True, distributed_optimizer=True),
        # The decay's end at a tenth of the peak, and clipping at 1, are assumptions.
        optimizer=OptimizerConfig(lr=1e-4, min_lr=1e-5, warmup_ratio=0.01, beta2=0.95, weight_decay=0.1, clip_grad=1.0),
        training=TrainingConfig(
            steps=stage.steps,
            global_batch_size=stage.micro_batches,
            precision="bf16",
            eval_interval=1000,
            eval_batches=stage.micro_batches,
        ),
        logging=LoggingConfig(interval=10),
    )
