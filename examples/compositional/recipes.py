"""Two coloured digits in a spatial relation, on a CPU: the base language model, and MARS on top of it.

Sizes follow 32-pixel canvases and a VQ model of f=4 and 256 codes: a sample is 64 codes, BOI, EOI and about twelve
caption tokens. The model is that of the quickstart's digits.
"""

from __future__ import annotations

from dataclasses import replace

from examples.digits import recipes as digits
from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import (
    CheckpointConfig,
    DataConfig,
    FreezeConfig,
    GenerationConfig,
    ImageConfig,
    OptimizerConfig,
    RunConfig,
    TaskWeights,
    TrainingConfig,
    VocabularyConfig,
)

TOKENS_PER_SAMPLE = 78
TEXT_TOKENS_PER_MICRO_BATCH = 1024
SAMPLES_PER_MICRO_BATCH = 24


def base() -> RunConfig:
    """The text-only base language model, which learns what colours, numbers and sides are, and what goes with what."""
    of_digits = digits.base()
    return replace(
        of_digits,
        # The usual 10,000 is for long texts. A canvas has rows of 8 codes, and words matter to those beside them.
        model=replace(of_digits.model, rope_base=100.0),
        vocabulary=VocabularyConfig(text_size=128, codebook_size=256, pad_multiple=8),
        image=ImageConfig(resolution=32, downsample=4),
        data=replace(of_digits.data, micro_batch_tokens=TEXT_TOKENS_PER_MICRO_BATCH + RESERVED_ROWS),
        optimizer=replace(of_digits.optimizer, lr=4e-3, min_lr=4e-4),
        training=TrainingConfig(steps=500, global_batch_size=2),
    )


def mars() -> RunConfig:
    """Text-to-image with the text expert trained too; start from `base` by checkpoint.init_from.

    A language model of minutes does not know what stands where, and what it does not know, a frozen one cannot tell.
    Its weights are also a bad initialisation of visual experts.
    """
    return replace(
        base(),
        freeze=FreezeConfig(text=False, visual=False, norms=False),
        data=DataConfig(
            tasks=TaskWeights(t2i=1.0, i2t=0.0),
            caption_dropout=0.1,
            micro_batch_tokens=TOKENS_PER_SAMPLE * SAMPLES_PER_MICRO_BATCH + RESERVED_ROWS,
        ),
        optimizer=OptimizerConfig(lr=4e-3, min_lr=1e-4, warmup_ratio=0.05, beta2=0.95, weight_decay=0.0),
        training=TrainingConfig(steps=4000, global_batch_size=2),
        generation=GenerationConfig(guidance=1.5, temperature=0.3, max_caption_tokens=24),
        checkpoint=CheckpointConfig(init_visual="random"),
    )
