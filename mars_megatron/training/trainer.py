"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import tee
from pathlib import Path

import torch

from mars_megatron import platform
from mars_megatron.checkpoint import Position, latest, load, load_model, load_optimizer, resolve, save
from mars_megatron.checkpoint.tokenizers import keep_copies, locate_for_training
from mars_megatron.compat import megatron_core
from mars_megatron.config import validate
from mars_megatron.config.schema import RunConfig
from mars_megatron.data.prefetch import Prefetcher
from mars_megatron.model import build_model
from mars_megatron.model.initialization import start_from_language_model
from mars_megatron.platform.parallel import initialize_parallel, only_on_rank_0, world_size
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training.callbacks import Callback, Log, Sample, Save, Score, Stop, Validate
from mars_megatron.training.feed import Feed
from mars_megatron.training.metrics import MetricsWriter
from mars_megatron.training.objective import Objective, StepResult
from mars_megatron.training.optimizer import apply_settings, build_optimizer, check_offered, wrap_data_parallel
from mars_megatron.training.step import Stepper

# Called in this order after every step.
CALLBACKS: list[type[Callback]] = [Log, Validate, Sample, Score, Stop, Save]


class Trainer:
    """One run, from its configuration to its last checkpoint.

    A complete checkpoint in `checkpoint.dir` is resumed; otherwise parameters are initialised from
    `checkpoint.init_from`, or at random.

    Args:
        config: The run.
        objective: The loss; None for next-token prediction.

    Raises:
        ValueError: settings that contradict each other or the data, before anything is trained.
    """

    def __init__(self, config: RunConfig, objective: Objective | None = None) -> None:
        self.config = config
        platform.initialize(config.training.device)
        platform.init_process_group()
        validate(config, world_size(), training=True)
        check_offered(config)
        self.groups = initialize_parallel(config.parallel, config.training.seed)
        torch.manual_seed(config.training.seed)
        self.vocabulary = Vocabulary.from_config(config)
        self.root = Path(config.checkpoint.dir) if config.checkpoint.dir else None
        checkpoint = latest(self.root) if self.root else None
        start = None
        if checkpoint is None and config.checkpoint.init_from:
            # Once for all: a run that goes on may have a newer one a moment later.
            start = only_on_rank_0(partial(resolve, config.checkpoint.init_from))
        origin, resumed = checkpoint or start, checkpoint is not None
        if origin is not None and config.checkpoint.verify_integrity:
            megatron_core.check_sums(origin)
        # What is saved names tokenizers as they were given; they may be elsewhere now.
        self.located, self.tokenizers = only_on_rank_0(partial(locate_for_training, config, origin, resumed))
        self.chunks = build_model(config, self.groups, initialize=origin is None)
        if start is not None:
            begins = config.checkpoint.init_visual != "keep"
            load_model(start, config, self.groups, self.chunks, text_only=begins)
            if begins:
                for chunk in self.chunks:
                    start_from_language_model(chunk, config, self.vocabulary, self.groups)
        self.model = wrap_data_parallel(self.chunks, config, self.groups)
        self.optimizer, self.scheduler = build_optimizer(self.model, config, self.groups)
        self.position = Position()
        if checkpoint is not None:
            self.position = load(checkpoint, config, self.groups, self.chunks, self.optimizer, self.scheduler)
        elif start is not None and config.checkpoint.init_optimizer == "keep":
            load_optimizer(start, config, self.groups, self.chunks, self.optimizer)
        apply_settings(self.optimizer, config)
        self.stepper = Stepper(self.model, config, self.groups, objective)
        self.feed = Feed(self.located, self.vocabulary, self.groups)
        self.position = replace(self.position, data_order=self.feed.check_order(self.position))
        self.eval_batches = self._eval_batches() if config.training.eval_interval else 0
        if self.root:  # behind all that can be wrong with the settings
            only_on_rank_0(partial(keep_copies, self.root, self.located, self.tokenizers))
        self._train_feed = self.feed.batches("train", self.position.micro_batches)
        self.train_batches = self._per_chunk(self._train_feed)
        self.stopping = False  # set by a callback to end the run behind this step

    def run(self) -> StepResult | None:
        """Train to the last step, or to a request to stop; saves a checkpoint either way.

        Returns:
            The last step's result; None if there was nothing left to do.
        """
        self.metrics = MetricsWriter(self.config, self.position.step)
        callbacks = [kind(self) for kind in CALLBACKS]
        self._introduce()
        result = None
        while not (self.is_done() or self.stopping):
            for callback in callbacks:
                callback.before_step()
            result = self._step()
            for callback in callbacks:
                callback.after_step(result)
        for callback in reversed(callbacks):
            callback.end()
        self.metrics.close()
        self._train_feed.close()
        return result

    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.position.step >= self.config.training.steps

    def evaluate(self) -> StepResult:
        """Losses on the validation split, the same micro-batches every time."""
        per_rank = self.eval_batches or self._eval_batches()
        batches = self.feed.batches("validation", num=per_rank)
        result = self.stepper.evaluate(self._per_chunk(batches), per_rank)
        batches.close()
        return result

    def save(self) -> Path:
        """Write a checkpoint of the current step."""
        assert self.root is not None
        return save(
            self.root,
            self.position,
            self.config,
            self.groups,
            self.chunks,
            self.optimizer,
            self.scheduler,
            self.tokenizers,
        )

    def _step(self) -> StepResult:
        # The schedule counts finished steps; this one must not run with the rate of the previous.
        self.scheduler.step(increment=1)
        result = self.stepper.train(self.train_batches, self.optimizer)
        batch = self.config.training.global_batch_size
        before = self.position
        self.position = replace(before, step=before.step + 1, micro_batches=before.micro_batches + batch)
        return result

    def _eval_batches(self) -> int:
        """Micro-batches per validation and data-parallel rank: what is asked for, but none twice while there are enough
        for every rank to have its own."""
        parallel, replicas = self.config.parallel, self.groups.dp.size()
        group = replicas * (parallel.pipeline if parallel.virtual_pipeline > 1 else 1)
        available = max(self.feed.num_packs("validation") // group, 1) * group
        return min(self.config.training.eval_batches, available) // replicas

    def _per_chunk(self, batches: Prefetcher) -> list[Iterator[Batch]]:
        """One iterator per model chunk over the same micro-batches; every stage needs their plans."""
        return list(tee(batches, len(self.chunks)))

    def lr(self) -> float:
        """The learning rate of the last step."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def _introduce(self) -> None:
        total = sum(p.numel() for chunk in self.chunks for p in chunk.parameters())
        trained = sum(p.numel() for chunk in self.chunks for p in chunk.parameters() if p.requires_grad)
        parallel = self.config.parallel
        experts = f" (experts over {parallel.expert})" if parallel.expert > 1 else ""
        start = f"resumed at step {self.position.step}" if self.position.step else "from step 0"
        self.metrics.say(
            f"{total / 1e6:.1f}M parameters on this rank, {trained / 1e6:.1f}M trained; tensor {parallel.tensor} x "
            f"pipeline {parallel.pipeline} x data {self.groups.dp.size()}{experts}; {platform.device()}; {start}"
        )
        if torch.distributed.get_rank() == 0:  # which has read them
            self.metrics.say(self.feed.describe())
