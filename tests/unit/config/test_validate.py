"""Every rule of validate: the accepted neighbour passes, the contradiction names setting, value and remedy."""

from dataclasses import replace

import pytest

from mars_megatron.config import RunConfig, validate
from mars_megatron.config.problems import Problems, leaves
from mars_megatron.config.schema import CorpusConfig, FreezeConfig, TaskWeights


def changed(**settings):
    """The default run with dotted settings, dots written as double underscores."""
    config = RunConfig()
    for name, value in settings.items():
        config = with_setting(config, name.split("__"), value)
    return config


def with_setting(node, path, value):
    name, rest = path[0], path[1:]
    return replace(node, **{name: with_setting(getattr(node, name), rest, value) if rest else value})


SAMPLING = dict(
    logging__sample_interval=10,
    logging__sample_prompts=("a three",),
    checkpoint__dir="runs/x",
    data__text_tokenizer="t.model",
    data__image_tokenizer="vq",
)
EVALUATION = dict(
    evaluation__interval=10,
    evaluation__suites={"likelihood": {}},
    checkpoint__dir="runs/x",
    data__text_tokenizer="t.model",
)
SUPER_RESOLUTION = dict(data__tasks=TaskWeights(sr=1.0), image__low_resolution=8, data__micro_batch_tokens=90)
SHARED = dict(model__shared_experts=True, freeze__text=False)
LLAMA3 = dict(model__rope_scaling__type="llama3", model__rope_scaling__factor=8.0)

# (the contradiction, the setting that must be named, what must be said to be accepted)
REJECTED = [
    (dict(parallel__tensor=3), "model.num_attention_heads", "a multiple of parallel.tensor, which is 3"),
    (dict(model__num_query_groups=2, parallel__tensor=4), "model.num_query_groups", "a multiple of parallel.tensor"),
    (dict(model__ffn_hidden_size=351, parallel__tensor=2), "model.ffn_hidden_size", "a multiple of parallel.tensor"),
    (dict(vocabulary__pad_multiple=1, parallel__tensor=2), "vocabulary.pad_multiple", "a multiple of parallel.tensor"),
    (dict(parallel__pipeline=3), "model.num_layers", "which is 3"),
    (dict(parallel__pipeline=2, parallel__virtual_pipeline=4), "model.num_layers", "which is 8"),
    (dict(parallel__virtual_pipeline=2), "parallel.virtual_pipeline", "1, because parallel.pipeline is 1"),
    (dict(parallel__sequence=True), "parallel.sequence", "false, because parallel.tensor is 1"),
    (
        dict(parallel__sequence=True, parallel__tensor=4, data__micro_batch_tokens=1022),
        "data.micro_batch_tokens",
        "a multiple of parallel.tensor",
    ),
    (
        dict(
            parallel__sequence=True,
            parallel__tensor=64,
            vocabulary__pad_multiple=64,
            model__num_attention_heads=64,
            model__num_query_groups=64,
            model__ffn_hidden_size=64,
        ),
        "parallel.tensor",
        "at most 32 with parallel.sequence",
    ),
    (dict(parallel__tensor=0), "parallel.tensor", "1 or more"),
    (dict(parallel__expert=0), "parallel.expert", "1 or more"),
    (dict(experts__visual=0), "experts.visual", "1 or more"),
    (dict(experts__visual=3, parallel__expert=2), "experts.visual", "a multiple of parallel.expert, which is 2"),
    (dict(experts__text=2, experts__visual=3), "experts.visual", "a multiple of experts.text, which is 2"),
    (dict(experts__text=2), "experts.visual", "a multiple of experts.text, which is 2"),
    (dict(router__top_k=2), "router.top_k", "1, because experts.text and experts.visual are 1"),
    (dict(experts__visual=2, router__top_k=3), "router.top_k", "at most experts.visual, which is 2"),
    (dict(router__top_k=0), "router.top_k", "1 or more"),
    (dict(router__z_loss=-1.0), "router.z_loss", "0 or more"),
    (dict(router__condition="text"), "router.condition", "none, because experts.text and experts.visual are 1"),
    (
        dict(model__ffn_hidden_size=350, parallel__expert=4),
        "model.ffn_hidden_size",
        "a multiple of parallel.tensor x parallel.expert, which is 4",
    ),
    ({**SAMPLING, "parallel__expert": 2}, "parallel.expert", "1, sampling runs on tensor parallelism alone"),
    (SHARED | dict(experts__visual=2), "experts.visual", "1, because model.shared_experts is true"),
    (SHARED | dict(experts__text=2, experts__visual=2), "experts.text", "1, because model.shared_experts is true"),
    (SHARED | dict(parallel__expert=2), "parallel.expert", "1, because model.shared_experts is true"),
    (SHARED | dict(model__expert_norms=True), "model.expert_norms", "false, because model.shared_experts is true"),
    (SHARED | dict(freeze__text=True), "freeze.text", "false, because model.shared_experts is true"),
    (SHARED | dict(checkpoint__init_visual="random"), "checkpoint.init_visual", "copy or keep, because model.shared"),
    (dict(model__num_layers=0), "model.num_layers", "1 or more"),
    (dict(model__num_query_groups=3), "model.num_attention_heads", "a multiple of model.num_query_groups, which is 3"),
    (dict(model__hidden_size=130), "model.hidden_size", "a multiple of model.num_attention_heads"),
    (dict(model__hidden_size=4 * 31), "model.hidden_size", "an even size per attention head"),
    (dict(model__head_dim=31), "model.head_dim", "an even size"),
    (dict(model__norm_eps=0.0), "model.norm_eps", "a number above 0"),
    (dict(model__embedding_init_std=-0.5), "model.embedding_init_std", "0 or more"),
    (dict(loss__text_weight=0.0), "loss.text_weight", "a number above 0"),
    (dict(model__rope_scaling__type="yarn"), "model.rope_scaling.type", "none, linear, llama3"),
    (dict(model__rope_scaling__factor=2.0), "model.rope_scaling.factor", "1.0, because model.rope_scaling.type none"),
    (
        dict(model__rope_scaling__low_freq_factor=2.0),
        "model.rope_scaling.low_freq_factor",
        "1.0, because model.rope_scaling.type none does not use it",
    ),
    (
        dict(model__rope_scaling__type="linear", model__rope_scaling__original_context=4096),
        "model.rope_scaling.original_context",
        "8192, because model.rope_scaling.type linear does not use it",
    ),
    (
        dict(model__rope_scaling__type="linear", model__rope_scaling__high_freq_factor=8.0),
        "model.rope_scaling.high_freq_factor",
        "4.0, because model.rope_scaling.type linear",
    ),
    (dict(model__rope_scaling__type="linear", model__rope_scaling__factor=0.5), "model.rope_scaling.factor", "1 or"),
    (LLAMA3 | dict(model__rope_scaling__factor=0.9), "model.rope_scaling.factor", "1 or more"),
    (LLAMA3 | dict(model__rope_scaling__low_freq_factor=0.0), "model.rope_scaling.low_freq_factor", "above 0"),
    (
        LLAMA3 | dict(model__rope_scaling__low_freq_factor=4.0),
        "model.rope_scaling.high_freq_factor",
        "a number above 4.0",
    ),
    (LLAMA3 | dict(model__rope_scaling__original_context=0), "model.rope_scaling.original_context", "1 or more"),
    (dict(vocabulary__text_size=0), "vocabulary.text_size", "1 or more"),
    (dict(image__resolution=18), "image.resolution", "a multiple of image.downsample, which is 4"),
    (dict(image__downsample=0), "image.downsample", "1 or more"),
    (dict(data__micro_batch_tokens=83), "data.micro_batch_tokens", "84 or more"),
    (dict(data__caption_dropout=1.5), "data.caption_dropout", "a probability from 0 to 1"),
    (dict(data__caption_dropout=float("nan")), "data.caption_dropout", "a finite number"),
    (dict(data__validation_fraction=1.0), "data.validation_fraction", "from 0 up to"),
    (dict(data__tasks=TaskWeights(t2i=0.0, i2t=0.0)), "data.tasks.t2i", "a weight above 0"),
    (dict(data__tasks=TaskWeights(t2i=-1.0, i2t=2.0)), "data.tasks.t2i", "0 or more"),
    (dict(data__tasks=TaskWeights(sr=0.1)), "image.low_resolution", "above 0 and below image.resolution"),
    (dict(image__low_resolution=16), "image.low_resolution", "below image.resolution"),
    (dict(image__low_resolution=6), "image.low_resolution", "a multiple of image.downsample, which is 4"),
    (dict(image__next_k=0), "image.next_k", "1 or more"),
    (dict(image__next_k=4), "image.next_k", "1, because image.low_resolution is 0"),
    (dict(SUPER_RESOLUTION, image__next_k=3), "image.next_k", "a divisor of the 16 codes of an image"),
    (SUPER_RESOLUTION | dict(data__micro_batch_tokens=89), "data.micro_batch_tokens", "90 or more"),
    (dict(data__prefetch=-1), "data.prefetch", "0 or more"),
    (dict(data__path="a", data__blend=(CorpusConfig("b"),)), "data.path", "empty, because data.blend"),
    (dict(data__blend=(CorpusConfig(""),)), "data.blend.0.path", "the prefix of an index"),
    (dict(data__blend=(CorpusConfig("a", 1.0), CorpusConfig("b", -1.0))), "data.blend.1.weight", "0 or more"),
    (dict(data__blend=(CorpusConfig("a", 0.0),)), "data.blend.0.weight", "above 0 for one corpus"),
    (dict(data__blend=(CorpusConfig("a"), CorpusConfig("a", 0.0))), "data.blend", "no path both with and without"),
    (
        dict(data__blend=(CorpusConfig("a", 1.0, TaskWeights(t2i=0.0, i2t=0.0)),)),
        "data.blend.0.tasks.t2i",
        "a weight above 0 here or in another",
    ),
    (dict(data__blend=(CorpusConfig("a", 1.0, TaskWeights(text=-1.0)),)), "data.blend.0.tasks.text", "0 or more"),
    (dict(data__blend=(CorpusConfig("a"),) * 257), "data.blend", "at most 256 corpora"),
    (dict(data__num_workers=-1), "data.num_workers", "0 or more"),
    (dict(freeze=FreezeConfig(text=True, visual=True, norms=True)), "freeze.visual", "nothing to train"),
    (
        dict(freeze=FreezeConfig(text=True, visual=True, norms=False), model__expert_norms=True),
        "freeze.visual",
        "nothing to train",
    ),
    (dict(recompute__num_layers=0), "recompute.num_layers", "1 or more"),
    (
        dict(recompute__granularity="full", recompute__num_layers=3, parallel__pipeline=2),
        "recompute.num_layers",
        "at most 2",
    ),
    (dict(optimizer__lr=0.0, optimizer__min_lr=0.0), "optimizer.lr", "a number above 0"),
    (dict(optimizer__min_lr=0.1), "optimizer.min_lr", "from 0 to optimizer.lr, which is 0.001"),
    (dict(optimizer__warmup_ratio=1.0), "optimizer.warmup_ratio", "not including, 1"),
    (dict(optimizer__beta2=1.0), "optimizer.beta2", "not including, 1"),
    (dict(optimizer__clip_grad=-1.0), "optimizer.clip_grad", "0 or more"),
    (dict(training__steps=0), "training.steps", "1 or more"),
    (dict(training__precision="fp16"), "training.precision", "fp32, bf16"),
    (dict(training__steps="many"), "training.steps", "an integer"),
    (dict(training__eval_interval=5, data__validation_fraction=0.0), "training.eval_interval", "validation_path"),
    (
        dict(training__backend="transformer_engine", training__device="cpu", training__precision="bf16"),
        "training.backend",
        "local, because training.device is cpu",
    ),
    (dict(training__backend="transformer_engine"), "training.precision", "bf16 with training.backend"),
    (dict(checkpoint__keep=-1), "checkpoint.keep", "0 or more"),
    (dict(checkpoint__interval=5), "checkpoint.interval", "0, because checkpoint.dir is empty"),
    (dict(checkpoint__init_optimizer="keep"), "checkpoint.init_optimizer", "fresh, because checkpoint.init_visual is"),
    (dict(logging__interval=0), "logging.interval", "1 or more"),
    (SAMPLING | dict(logging__sample_prompts=()), "logging.sample_prompts", "one or more prompts"),
    (SAMPLING | dict(logging__sample_prompts=("a", "")), "logging.sample_prompts", "none empty"),
    (EVALUATION | dict(evaluation__suites={}), "evaluation.suites", "one or more suites of tools/evaluate.py"),
    (EVALUATION | dict(evaluation__interval=0), "evaluation.suites", "none, because evaluation.interval is 0"),
    (EVALUATION | dict(evaluation__suites={1: {}}), "evaluation.suites", "a mapping of names"),
    (EVALUATION | dict(evaluation__interval=-1), "evaluation.interval", "0 or more"),
    (EVALUATION | dict(checkpoint__dir=""), "checkpoint.dir", "a folder to write to (evaluation.interval is 10)"),
    (EVALUATION | dict(data__text_tokenizer=""), "data.text_tokenizer", "the tokenizer that reads the prompts"),
    (EVALUATION | dict(parallel__pipeline=2), "parallel.pipeline", "1, sampling runs on tensor parallelism alone"),
    (EVALUATION | dict(parallel__expert=2), "parallel.expert", "1, sampling runs on tensor parallelism alone"),
    (SAMPLING | dict(logging__tensorboard=False), "logging.tensorboard", "true"),
    (SAMPLING | dict(checkpoint__dir=""), "checkpoint.dir", "a folder"),
    (SAMPLING | dict(data__text_tokenizer=""), "data.text_tokenizer", "the tokenizer that reads the prompts"),
    (SAMPLING | dict(data__image_tokenizer=""), "data.image_tokenizer", "the tokenizer that decodes the codes"),
    (SAMPLING | dict(parallel__pipeline=2), "parallel.pipeline", "1, sampling runs on tensor parallelism alone"),
    (
        SAMPLING | dict(training__backend="transformer_engine", training__precision="bf16"),
        "training.backend",
        "local",
    ),
    (dict(generation__guidance=-1.0), "generation.guidance", "0 or more"),
    (dict(generation__text_temperature=-1.0), "generation.text_temperature", "0 or more"),
    (dict(generation__top_k=257), "generation.top_k", "from 0 to the 256 codes"),
    (dict(generation__top_p=0.0), "generation.top_p", "above 0, up to 1"),
    (dict(generation__min_p=1.1), "generation.min_p", "from 0 to 1"),
    (dict(generation__batch_size=0), "generation.batch_size", "1 or more"),
]


@pytest.mark.parametrize(("settings", "named", "accepted"), REJECTED)
def test_a_contradiction_is_named_with_value_and_remedy(settings, named, accepted):
    config = changed(**settings)
    with pytest.raises(ValueError) as error:
        validate(config)
    value = repr(Problems(config).value(named))
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert any(line.startswith(f"{named} is {value}; accepted: ") and accepted in line for line in lines), lines


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        SAMPLING,
        EVALUATION,
        dict(parallel__tensor=4, parallel__sequence=True),
        dict(parallel__pipeline=2, parallel__virtual_pipeline=2),
        dict(data__micro_batch_tokens=84),
        dict(data__caption_dropout=1.0, optimizer__min_lr=0.0, optimizer__warmup_ratio=0.0),
        dict(freeze=FreezeConfig(text=True, visual=True, norms=False)),
        dict(freeze=FreezeConfig(text=False, visual=True, norms=False)),
        dict(data__tasks=TaskWeights(t2i=1.0, i2t=0.0)),
        dict(data__tasks=TaskWeights(t2i=0.0, i2t=0.0, text=1.0)),
        SUPER_RESOLUTION,
        SHARED,
        SHARED | dict(freeze__norms=False, model__expert_output_projection=False, model__qk_norm=True),
        dict(data__blend=(CorpusConfig("a", 0.0), CorpusConfig("b", 2.0, TaskWeights(interleaved=1.0)))),
        dict(
            data__blend=(CorpusConfig("a", 0.0), CorpusConfig("b")),
            data__validation_fraction=0.0,
            training__eval_interval=5,
        ),
        dict(model__head_dim=32, model__hidden_size=130),
        dict(recompute__granularity="full", recompute__num_layers=2, parallel__pipeline=2),
        dict(recompute__num_layers=9),
        dict(model__rope_scaling__type="linear", model__rope_scaling__factor=2.0, model__qk_norm=True),
        LLAMA3,
        LLAMA3 | dict(model__rope_scaling__low_freq_factor=3.9, model__rope_scaling__original_context=1),
        dict(training__device="cuda", training__backend="transformer_engine", training__precision="bf16"),
        dict(generation__guidance=1.0, generation__top_k=256, generation__top_p=1.0, generation__temperature=0.0),
        dict(optimizer__clip_grad=1),
        dict(experts__visual=4, parallel__expert=2, router__condition="text", model__ffn_hidden_size=352),
        dict(experts__text=2, experts__visual=4, router__top_k=2),
        dict(experts__visual=4, parallel__tensor=2),  # without training, as for sampling
    ],
)
def test_what_fits_together_is_accepted(settings):
    config = changed(**settings)
    assert validate(config) is config


def test_all_problems_are_reported_at_once():
    with pytest.raises(ValueError) as error:
        validate(changed(parallel__tensor=3, optimizer__lr=-1.0, checkpoint__interval=5))
    for setting in ("model.num_attention_heads", "model.ffn_hidden_size", "optimizer.lr", "checkpoint.interval"):
        assert f"\n  {setting} is " in str(error.value)


def test_world_size_must_hold_whole_models():
    config = changed(parallel__tensor=2, parallel__pipeline=2)
    validate(config, 4)
    validate(config, None)
    with pytest.raises(ValueError, match=r"one model takes 4 ranks, but there are 6; accepted: .* divides 6"):
        validate(config, 6)


def test_global_batch_is_shared_out_evenly():
    validate(changed(training__global_batch_size=6), 3)
    with pytest.raises(ValueError, match=r"training\.global_batch_size is 2; accepted: a multiple of the data-par.* 4"):
        validate(RunConfig(), 4)


def test_evaluation_batches_are_shared_out_evenly_when_there_are_any():
    validate(changed(training__eval_batches=3), 2)
    with pytest.raises(ValueError, match=r"training\.eval_batches is 3; accepted: a multiple of the data-par.* 2"):
        validate(changed(training__eval_batches=3, training__eval_interval=5), 2)


def test_interleaving_takes_micro_batches_in_groups():
    interleaved = dict(parallel__pipeline=2, parallel__virtual_pipeline=2)
    validate(changed(**interleaved, training__global_batch_size=4), 4)
    with pytest.raises(ValueError, match=r"training\.global_batch_size is 6; accepted: a multiple of 4"):
        validate(changed(**interleaved, training__global_batch_size=6), 4)


def test_expert_parallel_ranks_are_data_parallel_ranks():
    config = changed(parallel__expert=2, training__global_batch_size=12)
    validate(config, 4)
    with pytest.raises(ValueError, match=r"parallel\.expert is 2; accepted: a divisor of the data-par.*, which is 3"):
        validate(config, 3)


@pytest.mark.parametrize("experts", [dict(experts__visual=2), dict(parallel__expert=2)])
def test_training_experts_on_tensor_parallel_ranks_needs_sequence_parallelism(experts):
    config = changed(parallel__tensor=2, data__path="corpus/train", **experts)
    with pytest.raises(ValueError, match=r"parallel\.sequence is False; accepted: true with parallel\.tensor above 1"):
        validate(config, training=True)
    validate(with_setting(config, ["parallel", "sequence"], True), training=True)


def test_only_training_needs_data():
    validate(RunConfig())
    validate(changed(data__path="corpus/train"), training=True)
    with pytest.raises(ValueError, match=r"data\.path is ''; accepted: the prefix"):
        validate(RunConfig(), training=True)


def test_a_kept_optimizer_is_that_of_a_checkpoint():
    kept = changed(data__path="corpus/train", checkpoint__init_visual="keep", checkpoint__init_optimizer="keep")
    validate(kept)  # a recipe, for example
    with pytest.raises(ValueError, match=r"checkpoint\.init_optimizer is 'keep'; accepted: fresh, because .* is empty"):
        validate(kept, training=True)
    validate(with_setting(kept, ["checkpoint", "init_from"], "runs/one"), training=True)


@pytest.mark.parametrize("beginning", ["keep", "random"])
def test_a_beginning_of_visual_experts_needs_a_checkpoint(beginning):
    """A later stage without the checkpoint of the one before would train from random values."""
    config = changed(data__path="corpus/train", checkpoint__init_visual=beginning)
    validate(config)  # a recipe, for example
    with pytest.raises(
        ValueError, match=rf"init_visual is '{beginning}'; accepted: copy, because .*; or give --init-from"
    ):
        validate(config, training=True)
    validate(with_setting(config, ["checkpoint", "init_from"], "runs/one"), training=True)


def test_the_types_of_a_corpus_are_checked():
    with pytest.raises(ValueError, match=r"data\.blend\.1\.weight is '2'; accepted: a finite number"):
        validate(changed(data__blend=(CorpusConfig("a"), CorpusConfig("b", "2"))))
    with pytest.raises(ValueError, match=r"data\.blend is .*; accepted: a tuple of CorpusConfig"):
        validate(changed(data__blend=("a",)))


def test_every_leaf_has_a_type_that_is_checked():
    """A field of a new kind must not slip through `Problems.types` unchecked."""
    for setting, value, _ in leaves(RunConfig()):
        wrong = 1.5 if isinstance(value, (str, bool, tuple)) else "wrong"
        problems = Problems(with_setting(RunConfig(), setting.split("."), wrong))
        problems.types()
        assert len(problems.lines) == 1 and problems.lines[0].startswith(f"{setting} is {wrong!r};"), setting
