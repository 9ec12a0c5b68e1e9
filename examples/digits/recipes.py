"""Handwritten digits on a CPU: the base language model, MARS on top of it, and the three stages of MARS.

quickstart.sh runs `base` and `mars`; stages.sh runs `base` and the stages, twins of mars_7b_stage1 .. 3 that train on a
CPU in minutes. Start stage I from the base and each later stage from the one before it: `--init-from CHECKPOINT`.

Sizes follow what was measured with 16-pixel images and a VQ model of f=4 and 256 codes: a sample is 16 codes, BOI,
EOI and about four caption tokens. All stages share one image tokenizer, so an image of twice the resolution has four
times the tokens.
"""

from __future__ import annotations

from dataclasses import replace

from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import (
    CheckpointConfig,
    DataConfig,
    FreezeConfig,
    GenerationConfig,
    ImageConfig,
    LoggingConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TaskWeights,
    TrainingConfig,
    VocabularyConfig,
)

TOKENS_PER_SAMPLE = 22
TEXT_TOKENS_PER_MICRO_BATCH = 512
SAMPLES_PER_MICRO_BATCH = 48
# Of the stages II and III.
LOW_RESOLUTION, HIGH_RESOLUTION = 16, 32
CAPTION_TOKENS = 4  # mean
IMAGE_MARKS = 2  # BOI and EOI
NEXT_K = 4
SAMPLES_PER_MICRO_BATCH_OF_STAGES = 16


def base() -> RunConfig:
    """The text-only base language model, to which number words shall mean something.

    The visual expert exists and is frozen: nothing in a text sample reaches it.
    """
    return RunConfig(
        model=_model(),
        vocabulary=_vocabulary(),
        image=ImageConfig(resolution=16, downsample=4),
        freeze=FreezeConfig(text=False, visual=True, norms=False),
        data=DataConfig(
            tasks=TaskWeights(t2i=0.0, i2t=0.0, text=1.0),
            micro_batch_tokens=TEXT_TOKENS_PER_MICRO_BATCH + RESERVED_ROWS,
        ),
        optimizer=OptimizerConfig(lr=5e-3, min_lr=5e-4, warmup_ratio=0.05, beta2=0.95, weight_decay=0.1),
        training=TrainingConfig(steps=500, global_batch_size=2),
        logging=LoggingConfig(interval=20),
    )


def mars() -> RunConfig:
    """Text-to-image and captioning with the text expert frozen; start from `base` by checkpoint.init_from."""
    return replace(
        base(),
        freeze=FreezeConfig(text=True, visual=False, norms=True),
        data=DataConfig(
            tasks=TaskWeights(t2i=0.45, i2t=0.55),
            caption_dropout=0.1,
            micro_batch_tokens=TOKENS_PER_SAMPLE * SAMPLES_PER_MICRO_BATCH + RESERVED_ROWS,
            # On gloo a collective costs a millisecond whatever its size.
            pack_by_task=False,
        ),
        # Of a caption's few targets one names the digit; an image has seventeen.
        loss=LossConfig(text_weight=3.0),
        optimizer=OptimizerConfig(lr=2e-3, min_lr=2e-4, warmup_ratio=0.05, beta2=0.95, weight_decay=0.0),
        training=TrainingConfig(steps=2200, global_batch_size=1),
        generation=GenerationConfig(guidance=2.0, temperature=0.2, max_caption_tokens=16),
    )


def stage1() -> RunConfig:
    """Stage I: text-to-image and captioning at 16 pixels, 16 tokens. Start from `base`."""
    return mars()


def stage2() -> RunConfig:
    """Stage II: the same tasks at 32 pixels, 64 tokens, with the visual experts of stage I."""
    first = stage1()
    return replace(
        first,
        image=replace(first.image, resolution=HIGH_RESOLUTION),
        data=replace(first.data, micro_batch_tokens=_micro_batch_tokens(HIGH_RESOLUTION)),
        optimizer=replace(first.optimizer, min_lr=1e-4),
        training=replace(first.training, steps=4000),
        checkpoint=CheckpointConfig(init_visual="keep"),
    )


def stage3() -> RunConfig:
    """Stage III: super-resolution from 16 to 32 pixels, four tokens at a time. Goes on from stage II."""
    second = stage2()
    return replace(
        second,
        image=replace(second.image, low_resolution=LOW_RESOLUTION, next_k=NEXT_K, order="regions"),
        data=replace(
            second.data,
            tasks=TaskWeights(t2i=0.0, i2t=0.0, sr=1.0),
            micro_batch_tokens=_micro_batch_tokens(LOW_RESOLUTION, HIGH_RESOLUTION),
        ),
    )


def _model() -> ModelConfig:
    return ModelConfig(
        num_layers=4,
        hidden_size=128,
        ffn_hidden_size=344,
        num_attention_heads=4,
        num_query_groups=4,
        # The usual 0.02 learns facts much more slowly at this width.
        init_std=0.06,
        # A number must stay readable in the keys and values of every frozen layer: with 0.06 here some seeds gave
        # a prompt fidelity of 0.98 and others 0.5; with 0.5 it does not depend on the seed.
        embedding_init_std=0.5,
    )


def _vocabulary() -> VocabularyConfig:
    return VocabularyConfig(text_size=256, codebook_size=256, pad_multiple=8)


def _micro_batch_tokens(*resolutions: int) -> int:
    """Rows of a micro-batch of samples with a caption and one image of each resolution."""
    image = mars().image
    tokens = sum(replace(image, resolution=resolution).num_codes + IMAGE_MARKS for resolution in resolutions)
    return (CAPTION_TOKENS + tokens) * SAMPLES_PER_MICRO_BATCH_OF_STAGES + RESERVED_ROWS
