"""Cross-field validation: every contradiction of a RunConfig, found before any process group exists."""

from __future__ import annotations

import dataclasses

from mars_megatron.config.data_schema import MAX_CORPORA, MAX_SEQUENCE_PARALLEL, RESERVED_ROWS
from mars_megatron.config.problems import Problems
from mars_megatron.config.schema import RopeScalingConfig, RunConfig, TaskWeights


def validate(config: RunConfig, world_size: int | None = None, *, training: bool = False) -> RunConfig:
    """Check a configuration and report all of its problems at once.

    Args:
        config: The run.
        world_size: Number of ranks; None leaves out what depends on it (as on a login node).
        training: Also require what only a training run needs, such as data.path.

    Returns:
        The same configuration, for chaining.

    Raises:
        ValueError: One line for each problem: the dotted setting, its value and what would be accepted.
    """
    problems = Problems(config)
    problems.types()
    if not problems.lines:  # the rest does arithmetic on the values
        shape = (_model, _rope_scaling, _vocabulary_and_image, _data, _trainable, _parallel, _experts, _shared_experts)
        for check in (*shape, _recompute, _optimizer, _training, _checkpoint_and_logging, _generation):
            check(config, problems)
        if world_size is not None and not problems.lines:
            _world(config, world_size, problems)
        if training:
            named = config.data.path != "" or len(config.data.blend) > 0
            problems.check(named, "data.path", "the prefix of an index made by tools/index_data.py, or set data.blend")
            for setting, alone in (("checkpoint.init_optimizer", "fresh"), ("checkpoint.init_visual", "copy")):
                problems.check(
                    problems.value(setting) == alone or config.checkpoint.init_from != "",
                    setting,
                    f"{alone}, because checkpoint.init_from is empty; or give --init-from",
                )
            # The ranks of a tensor-parallel group would each train the experts on all of the group's tokens.
            problems.check(
                config.parallel.tensor == 1 or config.parallel.sequence or not uses_expert_layers(config),
                "parallel.sequence",
                "true with parallel.tensor above 1 and more than one expert, or parallel.expert above 1",
            )
    problems.raise_if_any()
    return config


def uses_expert_layers(config: RunConfig) -> bool:
    """Whether any FFN is more than a dense one of its own on every data-parallel rank."""
    return max(config.experts.text, config.experts.visual, config.parallel.expert) > 1


def _model(config: RunConfig, problems: Problems) -> None:
    model = config.model
    counts = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
    problems.at_least(1, *(f"model.{name}" for name in counts))
    problems.at_least(0, "model.head_dim", "model.embedding_init_std")
    problems.above(0, "model.norm_eps", "model.rope_base", "model.init_std", "loss.text_weight")
    if problems.lines:
        return
    problems.divides("model.num_query_groups", "model.num_attention_heads")
    if model.head_dim == 0:
        problems.divides("model.num_attention_heads", "model.hidden_size")
        even = (model.hidden_size // model.num_attention_heads) % 2 == 0
        problems.check(even, "model.hidden_size", "an even size per attention head (rotary embedding turns pairs)")
    else:
        problems.check(model.head_dim % 2 == 0, "model.head_dim", "an even size (rotary embedding turns pairs)")


def _rope_scaling(config: RunConfig, problems: Problems) -> None:
    scaling, default = config.model.rope_scaling, RopeScalingConfig()
    if scaling.type == "llama3":
        problems.at_least(1, "model.rope_scaling.original_context")
        problems.above(0, "model.rope_scaling.low_freq_factor")
        problems.above(scaling.low_freq_factor, "model.rope_scaling.high_freq_factor")
        unused = []
    else:
        unused = ["low_freq_factor", "high_freq_factor", "original_context"]
    if scaling.type == "none":
        unused.append("factor")
    else:
        problems.at_least(1, "model.rope_scaling.factor")
    for name in unused:
        expected = getattr(default, name)
        problems.check(
            getattr(scaling, name) == expected,
            f"model.rope_scaling.{name}",
            f"{expected}, because model.rope_scaling.type {scaling.type} does not use it",
        )


def _vocabulary_and_image(config: RunConfig, problems: Problems) -> None:
    problems.at_least(1, "vocabulary.text_size", "vocabulary.codebook_size", "vocabulary.pad_multiple")
    problems.at_least(1, "image.resolution", "image.downsample")
    problems.at_least(0, "image.low_resolution")
    problems.at_least(1, "image.next_k")
    if problems.lines:
        return
    problems.divides("image.downsample", "image.resolution")
    problems.divides("image.downsample", "image.low_resolution")
    image = config.image
    problems.check(
        image.next_k == 1 or image.low_resolution > 0,
        "image.next_k",
        "1, because image.low_resolution is 0: it concerns the high-resolution part of super-resolution alone",
    )
    problems.check(
        image.num_codes % image.next_k == 0, "image.next_k", f"a divisor of the {image.num_codes} codes of an image"
    )


def _data(config: RunConfig, problems: Problems) -> None:
    """Record what is wrong with config.data, and with config.image for it."""
    data, image = config.data, config.image
    fraction = data.validation_fraction
    problems.check(0 <= fraction < 1, "data.validation_fraction", "from 0 up to, but not including, 1")
    problems.check(0 <= data.caption_dropout <= 1, "data.caption_dropout", "a probability from 0 to 1")
    problems.at_least(0, "data.num_workers", "data.prefetch", "data.seed")
    _blend(config, problems)
    super_resolution = any(tasks.sr > 0 for tasks in task_weights(config))
    if super_resolution or image.low_resolution != 0:
        fine = 0 < image.low_resolution < image.resolution
        accepted = "above 0 and below image.resolution, for data.tasks.sr"
        problems.check(fine, "image.low_resolution", accepted if super_resolution else "0, or below image.resolution")
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


def _trainable(config: RunConfig, problems: Problems) -> None:
    problems.check(
        not (config.text_is_frozen and config.freeze.visual),
        "freeze.visual",
        "false here or in freeze.text: with both experts and the norms frozen there is nothing to train",
    )


def _parallel(config: RunConfig, problems: Problems) -> None:
    parallel = config.parallel
    problems.at_least(1, "parallel.tensor", "parallel.pipeline", "parallel.virtual_pipeline")
    if problems.lines:
        return
    for setting in ("num_attention_heads", "num_query_groups", "ffn_hidden_size"):
        problems.divides("parallel.tensor", f"model.{setting}")
    problems.divides("parallel.tensor", "vocabulary.pad_multiple")
    chunks = parallel.pipeline * parallel.virtual_pipeline
    problems.check(
        config.model.num_layers % chunks == 0,
        "model.num_layers",
        f"a multiple of parallel.pipeline x parallel.virtual_pipeline, which is {chunks}",
    )
    problems.check(
        parallel.virtual_pipeline == 1 or parallel.pipeline > 1,
        "parallel.virtual_pipeline",
        f"1, because parallel.pipeline is {parallel.pipeline}; interleaving needs 2 or more stages",
    )
    if parallel.sequence:
        problems.check(parallel.tensor > 1, "parallel.sequence", "false, because parallel.tensor is 1")
        problems.check(
            parallel.tensor <= MAX_SEQUENCE_PARALLEL,
            "parallel.tensor",
            f"at most {MAX_SEQUENCE_PARALLEL} with parallel.sequence",
        )
        problems.divides("parallel.tensor", "data.micro_batch_tokens")


def _experts(config: RunConfig, problems: Problems) -> None:
    experts, router, parallel = config.experts, config.router, config.parallel
    problems.at_least(1, "experts.text", "experts.visual", "parallel.expert", "router.top_k")
    problems.at_least(0, "router.balance_loss", "router.z_loss")
    if problems.lines:
        return
    for setting in ("experts.text", "experts.visual"):
        number = problems.value(setting)
        if number > 1:
            problems.divides("parallel.expert", setting)
            problems.check(
                router.top_k <= number, "router.top_k", f"at most {setting}, which is {number} (or set that to 1)"
            )
        else:
            ranks = parallel.tensor * parallel.expert
            problems.check(
                config.model.ffn_hidden_size % ranks == 0,
                "model.ffn_hidden_size",
                f"a multiple of parallel.tensor x parallel.expert, which is {ranks}: {setting} is 1, so the one "
                "expert is cut over them",
            )
    problems.divides("experts.text", "experts.visual")
    for setting, unused in (("router.top_k", 1), ("router.condition", "none")):
        fine = experts.visual > 1 or problems.value(setting) == unused
        problems.check(fine, setting, f"{unused}, because experts.text and experts.visual are 1: nothing is routed")


def _shared_experts(config: RunConfig, problems: Problems) -> None:
    if not config.model.shared_experts:
        return
    because = "because model.shared_experts is true: visual tokens have no experts of their own"
    for setting in ("experts.text", "experts.visual", "parallel.expert"):
        problems.check(problems.value(setting) == 1, setting, f"1, {because}")
    for setting in ("model.expert_norms", "freeze.text"):
        problems.check(not problems.value(setting), setting, f"false, {because}")
    drawn = config.checkpoint.init_visual == "random"
    problems.check(not drawn, "checkpoint.init_visual", f"copy or keep, {because}")


def _recompute(config: RunConfig, problems: Problems) -> None:
    recompute, parallel = config.recompute, config.parallel
    problems.at_least(1, "recompute.num_layers")
    if recompute.granularity == "full" and parallel.pipeline >= 1 and parallel.virtual_pipeline >= 1:
        layers = config.model.num_layers // (parallel.pipeline * parallel.virtual_pipeline)
        problems.check(
            recompute.num_layers <= max(layers, 1),
            "recompute.num_layers",
            f"at most {layers}, the layers of one pipeline stage (model chunk)",
        )


def _optimizer(config: RunConfig, problems: Problems) -> None:
    optimizer = config.optimizer
    problems.above(0, "optimizer.lr", "optimizer.eps")
    problems.at_least(0, "optimizer.weight_decay", "optimizer.clip_grad", "optimizer.grad_norm_skip_threshold")
    problems.check(
        0 <= optimizer.min_lr <= optimizer.lr, "optimizer.min_lr", f"from 0 to optimizer.lr, which is {optimizer.lr}"
    )
    for setting in ("optimizer.warmup_ratio", "optimizer.beta1", "optimizer.beta2"):
        problems.check(0 <= problems.value(setting) < 1, setting, "from 0 up to, but not including, 1")


def _training(config: RunConfig, problems: Problems) -> None:
    training = config.training
    problems.at_least(1, "training.steps", "training.global_batch_size", "training.eval_batches")
    problems.at_least(0, "training.seed", "training.eval_interval")
    if training.eval_interval > 0:
        problems.check(
            config.data.validation_path != ""
            or config.data.validation_fraction > 0
            or any(corpus.weight == 0 for corpus in config.data.blend),
            "training.eval_interval",
            "0, or set data.validation_path, data.validation_fraction above 0, or a corpus of weight 0 in data.blend",
        )
    if training.backend == "transformer_engine":
        problems.check(
            training.device != "cpu", "training.backend", "local, because training.device is cpu (it needs a GPU)"
        )
        problems.check(
            training.precision == "bf16",
            "training.precision",
            "bf16 with training.backend transformer_engine: its packed attention has no fp32 kernels",
        )


def _checkpoint_and_logging(config: RunConfig, problems: Problems) -> None:
    logging, checkpoint = config.logging, config.checkpoint
    problems.at_least(0, "checkpoint.interval", "checkpoint.keep", "logging.sample_interval")
    problems.at_least(1, "logging.interval")
    problems.check(
        checkpoint.interval <= 0 or checkpoint.dir != "", "checkpoint.interval", "0, because checkpoint.dir is empty"
    )
    if checkpoint.init_optimizer == "keep":
        problems.check(
            checkpoint.init_visual == "keep",
            "checkpoint.init_optimizer",
            f"fresh, because checkpoint.init_visual is {checkpoint.init_visual}: visual experts that begin have no "
            "optimiser state",
        )
    if logging.sample_interval > 0:
        prompts = len(logging.sample_prompts) > 0 and all(logging.sample_prompts)
        needs = {
            "logging.sample_prompts": (prompts, "one or more prompts, none empty"),
            "logging.tensorboard": (logging.tensorboard, "true, the grids are written to TensorBoard"),
            "data.image_tokenizer": (config.data.image_tokenizer != "", "the tokenizer that decodes the codes"),
        }
        _sampling(config, problems, "logging.sample_interval", needs)
    problems.at_least(0, "evaluation.interval")
    problems.check(
        config.evaluation.interval != 0 or not config.evaluation.suites,
        "evaluation.suites",
        "none, because evaluation.interval is 0: they would never run",
    )
    if config.evaluation.interval > 0:
        suites = {"evaluation.suites": (len(config.evaluation.suites) > 0, "one or more suites of tools/evaluate.py")}
        _sampling(config, problems, "evaluation.interval", suites)


def _sampling(config: RunConfig, problems: Problems, because: str, needs: dict[str, tuple[bool, str]]) -> None:
    """What a run must have that samples from its model while it trains it, and `needs` besides.

    Args:
        config: The run.
        problems: Where what is missing is noted.
        because: The setting that asks for it.
        needs: (whether it is fine, what would be accepted) by setting.
    """
    needs = needs | {
        "checkpoint.dir": (config.checkpoint.dir != "", "a folder to write to"),
        "data.text_tokenizer": (config.data.text_tokenizer != "", "the tokenizer that reads the prompts"),
        "parallel.pipeline": (config.parallel.pipeline == 1, "1, sampling runs on tensor parallelism alone"),
        "parallel.expert": (config.parallel.expert == 1, "1, sampling runs on tensor parallelism alone"),
        "training.backend": (config.training.backend == "local", "local, the one that decodes with a cache"),
    }
    for setting, (fine, accepted) in needs.items():
        problems.check(fine, setting, f"{accepted} ({because} is {problems.value(because)})")


def _generation(config: RunConfig, problems: Problems) -> None:
    generation = config.generation
    problems.at_least(
        0, "generation.guidance", "generation.temperature", "generation.text_temperature", "generation.seed"
    )
    problems.at_least(1, "generation.batch_size", "generation.max_caption_tokens")
    codes = config.vocabulary.codebook_size
    problems.check(0 <= generation.top_k <= codes, "generation.top_k", f"from 0 to the {codes} codes")
    problems.check(0 < generation.top_p <= 1, "generation.top_p", "above 0, up to 1")
    problems.check(0 <= generation.min_p <= 1, "generation.min_p", "from 0 to 1")


def _world(config: RunConfig, world_size: int, problems: Problems) -> None:
    parallel, training = config.parallel, config.training
    ranks = parallel.tensor * parallel.pipeline
    if world_size % ranks:
        problems.lines.append(
            f"parallel.tensor is {parallel.tensor} and parallel.pipeline is {parallel.pipeline}, one model takes "
            f"{ranks} ranks, but there are {world_size}; accepted: sizes whose product divides {world_size}"
        )
        return
    replicas = world_size // ranks
    accepted = f"a divisor of the data-parallel size, which is {replicas}"
    problems.check(replicas % parallel.expert == 0, "parallel.expert", accepted)
    batches = {"training.global_batch_size": training.global_batch_size}
    if training.eval_interval > 0:
        batches["training.eval_batches"] = training.eval_batches
    stages = parallel.pipeline if parallel.virtual_pipeline > 1 else 1
    for setting, size in batches.items():
        accepted = f"a multiple of the data-parallel size, which is {replicas}"
        if stages > 1:
            accepted = f"a multiple of {replicas * stages} (data-parallel size x parallel.pipeline) for interleaving"
        problems.check(size % (replicas * stages) == 0, setting, accepted)
