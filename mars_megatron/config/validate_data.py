"""Contradictions among the settings of what a run reads."""

from __future__ import annotations

import dataclasses

from mars_megatron.config.problems import Problems
from mars_megatron.config.schema import RunConfig, TaskWeights

# Rows of data.micro_batch_tokens that packing keeps free for padding each modality to the tensor-parallel size,
# and the largest size that fits. Always the same amount: the packs, and with them the losses, must not depend on
# the parallel layout.
RESERVED_ROWS = 64
MAX_SEQUENCE_PARALLEL = 32
MAX_CORPORA = 256  # a packed sample names its corpus in a byte


def check_data(config: RunConfig, problems: Problems) -> None:
    """Record what is wrong with config.data, and with config.image for it."""
    data, image = config.data, config.image
    fraction = data.validation_fraction
    problems.check(0 <= fraction < 1, "data.validation_fraction", "from 0 up to, but not including, 1")
    problems.check(0 <= data.caption_dropout <= 1, "data.caption_dropout", "a probability from 0 to 1")
    problems.at_least(0, "data.num_workers", "data.prefetch", "data.seed")
    _blend(config, problems)
    super_resolution = any(tasks.sr > 0 for tasks in task_weights(config))
    if super_resolution or image.low_resolution != 0:
        problems.check(
            0 < image.low_resolution < image.resolution,
            "image.low_resolution",
            "above 0 and below image.resolution, for data.tasks.sr"
            if super_resolution
            else "0, or below image.resolution",
        )
    if image.downsample >= 1 and image.resolution >= 1:
        # BOI, the codes, EOI, and the shortest caption and its end of sequence.
        shortest = image.num_codes + 4
        if super_resolution:
            shortest += image.num_low_codes + 2
        least = shortest + RESERVED_ROWS
        problems.check(
            data.micro_batch_tokens >= least,
            "data.micro_batch_tokens",
            f"{least} or more: one image sample needs {shortest} rows and {RESERVED_ROWS} are kept for padding",
        )


def task_weights(config: RunConfig) -> list[TaskWeights]:
    """The task mixture of every corpus."""
    return [corpus.tasks or config.data.tasks for corpus in config.data.blend] or [config.data.tasks]


def _blend(config: RunConfig, problems: Problems) -> None:
    data = config.data
    names = [field.name for field in dataclasses.fields(TaskWeights)]
    mixtures = {"data.tasks": data.tasks}
    for number, corpus in enumerate(data.blend):
        setting = f"data.blend.{number}"
        problems.check(corpus.path != "", f"{setting}.path", "the prefix of an index made by tools/index_data.py")
        problems.at_least(0, f"{setting}.weight")
        if corpus.tasks is not None:
            mixtures[f"{setting}.tasks"] = corpus.tasks
    for setting, tasks in mixtures.items():
        problems.at_least(0, *(f"{setting}.{name}" for name in names))
        total = sum(getattr(tasks, name) for name in names)
        problems.check(total > 0, f"{setting}.t2i", f"a weight above 0 here or in another of {', '.join(names)}")
    if data.blend:
        problems.check(data.path == "", "data.path", "empty, because data.blend names the corpora")
        weights = [corpus.weight for corpus in data.blend]
        problems.check(any(weight > 0 for weight in weights), "data.blend.0.weight", "above 0 for one corpus or more")
        watched = {corpus.path for corpus in data.blend if corpus.weight == 0}
        both = [corpus.path for corpus in data.blend if corpus.weight > 0 and corpus.path in watched]
        problems.check(not both, "data.blend", f"no path both with and without a weight (it is {', '.join(both)})")
        problems.check(len(weights) <= MAX_CORPORA, "data.blend", f"at most {MAX_CORPORA} corpora; merge some")
