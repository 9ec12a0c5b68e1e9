"""One training step of SemVIE against a dense model and against SemVIE by masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from benchmarks.dense import DenseGPT
from benchmarks.masked import MaskedMARS
from benchmarks.timing import OURS, as_table, contest, ratios_to_ours
from mars_megatron import platform
from mars_megatron.config import validate
from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    TrainingConfig,
    VocabularyConfig,
)
from mars_megatron.model import build_model
from mars_megatron.model.build import freeze
from mars_megatron.model.initialization import initialize_parameters
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sequence.batch import Batch, collate
from mars_megatron.sequence.samples import T2I, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training.optimizer import build_optimizer, wrap_data_parallel
from mars_megatron.training.step import Stepper, StepResult

# Small, so that the head, which is the same for all, does not hide the layers that are compared.
VOCABULARY = VocabularyConfig(text_size=1024, codebook_size=1024)
END_OF_TEXT = 0


@dataclass(frozen=True)
class StepOptions:
    """What is trained on.

    Args:
        layers: Transformer layers.
        hidden: Width.
        ffn: Width of the SwiGLU FFN.
        heads: Attention heads.
        tokens: Most tokens of the packed sequence; as many whole samples as fit are taken.
        image_tokens: Codes of an image.
        text_shares: Shares of the tokens that are text, as the user writes them.
        precision: Of parameters and activations.
        rounds: Timed steps of each contestant.
        progress: Show progress bars.
    """

    layers: int = 8
    hidden: int = 1024
    ffn: int = 2816
    heads: int = 16
    tokens: int = 2048
    image_tokens: int = 256
    text_shares: tuple[str, ...] = ("0.1", "0.2", "0.5")
    precision: Literal["fp32", "bf16"] = "fp32"
    rounds: int = 5
    progress: bool = True


def run(options: StepOptions, say: Callable[[str], None] = print) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ratios and seconds, by contestant, of each text share.

    Raises:
        ValueError: A share is not between 0 and 1, not one sample fits, or the shape of the model is impossible.
    """
    batches = {share: make_batch(share, options) for share in options.text_shares}
    models = build(options)
    say("; ".join(f"{name}: {describe(model.module)}" for name, model in models.items()))
    seconds = {}
    for share, batch in batches.items():
        calls = {name: partial(model.step, batch) for name, model in models.items()}
        seconds[share] = contest(calls, options.rounds, f"text share {share}", options.progress)
        plan = batch.plan
        say(
            as_table(
                f"one training step, {plan.num_tokens} tokens in {plan.num_samples} samples, {plan.num_text} of text "
                f"(share {share}), {options.precision}",
                seconds[share],
            )
        )
    return {share: ratios_to_ours(values) for share, values in seconds.items()}, seconds


class Training:
    """A model with its gradient buffers and optimiser, stepped as a run steps it.

    Args:
        module: The model.
        config: The run.
        groups: Process groups.
    """

    def __init__(self, module: Any, config: RunConfig, groups: ProcessGroupCollection) -> None:
        self.module = module
        wrapped = wrap_data_parallel([module], config, groups)
        self.optimizer, scheduler = build_optimizer(wrapped, config, groups)
        scheduler.step(increment=1)
        self.stepper = Stepper(wrapped, config, groups)

    def step(self, batch: Batch) -> StepResult:
        """Zero the gradients, forward, backward, clip, update."""
        return self.stepper.train([iter([batch])], self.optimizer)


def run_config(options: StepOptions) -> RunConfig:
    """The run that is timed: the paper's freezing, one micro-batch a step."""
    return RunConfig(
        model=ModelConfig(
            num_layers=options.layers,
            hidden_size=options.hidden,
            ffn_hidden_size=options.ffn,
            num_attention_heads=options.heads,
            num_query_groups=options.heads,
        ),
        vocabulary=VOCABULARY,
        data=DataConfig(micro_batch_tokens=options.tokens + RESERVED_ROWS),
        optimizer=OptimizerConfig(lr=1e-4),
        training=TrainingConfig(precision=options.precision, global_batch_size=1),
    )


def build(options: StepOptions) -> dict[str, Training]:
    """The contestants: ours; dense, all of it trained; masked, frozen as ours is; masked with the text trained too."""
    config = run_config(options)
    platform.initialize(config.training.device)
    platform.init_process_group()
    validate(config, 1)
    groups = initialize_parallel(ParallelConfig(), config.training.seed)
    (ours,) = build_model(config, groups)
    models: dict[str, Any] = {
        OURS: ours,
        "dense": DenseGPT(config, groups),
        "masked": MaskedMARS(config, groups),
        "masked_trained": MaskedMARS(config, groups),
    }
    for name in ("masked", "masked_trained"):
        initialize_parameters(models[name], config, groups)
    freeze(models["masked"], config.freeze)
    return {name: Training(model.to(platform.device()), config, groups) for name, model in models.items()}


def make_batch(share: str, options: StepOptions) -> Batch:
    """Whole text-to-image samples of random tokens, up to `options.tokens`, of which the given share is text."""
    visual = options.image_tokens + 1  # and the start of the image
    text_share = _share(share)
    mean_caption = visual * text_share / (1 - text_share)
    count = int(options.tokens / (visual + mean_caption))
    if count < 1:
        raise ValueError(
            f"not one sample of {mean_caption:.0f} text and {visual} visual tokens fits into --tokens {options.tokens}"
        )
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.from_config(RunConfig(vocabulary=VOCABULARY))
    # From half to one and a half times the mean, so that the samples differ in length as captions do.
    lengths = np.diff(np.round(np.cumsum(np.linspace(0.5, 1.5, count + 2)[1:-1] * mean_caption)), prepend=0).astype(int)
    samples = [
        make_sample(
            T2I,
            rng.integers(0, vocabulary.text_size, length),
            rng.integers(0, vocabulary.codebook_size, options.image_tokens),
            vocabulary,
            END_OF_TEXT,
        )
        for length in lengths
    ]
    return collate(samples, vocabulary).to(platform.device())


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(f"--text-share {text}: a share is a number from 0 to below 1, such as 0.2")
    return share


def describe(model: nn.Module) -> str:
    """How many parameters there are and how many of them are trained."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M trained"
