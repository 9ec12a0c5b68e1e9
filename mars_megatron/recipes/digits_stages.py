"""The three stages of MARS on handwritten digits: twins of mars_7b_stage1 .. 3 that train on a CPU in minutes.

Start stage I from digits_base and each later stage from the one before it: `--init-from CHECKPOINT`. All stages share
one image tokenizer of f=4, so an image of twice the resolution has four times the tokens.
"""

from __future__ import annotations

from dataclasses import replace

from mars_megatron.config.schema import CheckpointConfig, ImageConfig, RunConfig, TaskWeights
from mars_megatron.config.validate_data import RESERVED_ROWS
from mars_megatron.recipes.digits import digits

LOW_RESOLUTION, HIGH_RESOLUTION = 16, 32
CAPTION_TOKENS = 4  # mean, as digits has it
IMAGE_MARKS = 2  # BOI and EOI
NEXT_K = 4
SAMPLES_PER_MICRO_BATCH = 16


def digits_stage1() -> RunConfig:
    """Stage I: text-to-image and captioning at 16 pixels, 16 tokens. Start from digits_base."""
    return digits()


def digits_stage2() -> RunConfig:
    """Stage II: the same tasks at 32 pixels, 64 tokens, with the visual experts of stage I."""
    first = digits_stage1()
    return replace(
        first,
        image=replace(first.image, resolution=HIGH_RESOLUTION),
        data=replace(first.data, micro_batch_tokens=_micro_batch_tokens(HIGH_RESOLUTION)),
        optimizer=replace(first.optimizer, min_lr=1e-4),
        training=replace(first.training, steps=4000),
        checkpoint=CheckpointConfig(init_visual="keep"),
    )


def digits_stage3() -> RunConfig:
    """Stage III: super-resolution from 16 to 32 pixels, four tokens at a time. Goes on from stage II."""
    second = digits_stage2()
    return replace(
        second,
        image=replace(second.image, low_resolution=LOW_RESOLUTION, next_k=NEXT_K, order="regions"),
        data=replace(
            second.data,
            tasks=TaskWeights(t2i=0.0, i2t=0.0, sr=1.0),
            micro_batch_tokens=_micro_batch_tokens(LOW_RESOLUTION, HIGH_RESOLUTION),
        ),
    )


def _micro_batch_tokens(*resolutions: int) -> int:
    """Rows of a micro-batch of samples with a caption and one image of each resolution."""
    images: list[ImageConfig] = [replace(digits().image, resolution=resolution) for resolution in resolutions]
    tokens = sum(image.num_codes + IMAGE_MARKS for image in images)
    return (CAPTION_TOKENS + tokens) * SAMPLES_PER_MICRO_BATCH + RESERVED_ROWS
