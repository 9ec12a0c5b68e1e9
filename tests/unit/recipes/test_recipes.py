"""The recipes hold the paper's figures, and are runs that validation accepts."""

from dataclasses import replace

import pytest

from mars_megatron.config import RunConfig, validate
from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import FreezeConfig, ParallelConfig, TaskWeights
from mars_megatron.recipes import RECIPES, get_recipe
from mars_megatron.recipes.mars_7b import STAGE1, STAGE2, STAGE3
from mars_megatron.sequence.vocabulary import Vocabulary


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "mars_7b_stage3"])
@pytest.mark.parametrize("ranks", [8, 64])
def test_recipes_are_valid(name, ranks):
    config = get_recipe(name)
    parallel = config.parallel
    if config.training.global_batch_size % (ranks // (parallel.tensor * parallel.pipeline)) == 0:
        validate(config, ranks)
    validate(config)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="--recipe is 'mars_70b'; accepted: tiny, "):
        get_recipe("mars_70b")


def test_tiny_is_the_default():
    assert get_recipe("tiny") == RunConfig()


@pytest.mark.parametrize("name", ["mars_7b_stage1", "mars_7b_stage2", "mars_7b_stage3"])
def test_the_model_is_qwen_7b_with_the_papers_vocabulary(name):
    config = get_recipe(name)
    model = config.model
    shape = (model.num_layers, model.hidden_size, model.num_attention_heads, model.ffn_hidden_size)
    assert shape == (32, 4096, 32, 11008) and model.qkv_bias
    vocabulary = Vocabulary.from_config(config)
    # The paper's, and in stage III three more start slots, padded again.
    rows = 160_144 if name == "mars_7b_stage3" else 160_136
    assert vocabulary.padded_text_size + vocabulary.padded_image_size == rows
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.beta2, optimizer.weight_decay, optimizer.warmup_ratio) == (1e-4, 0.95, 0.1, 0.01)
    assert config.freeze.text and config.freeze.norms and not config.freeze.visual


@pytest.mark.parametrize(
    ("name", "stage", "resolution", "pairs", "epochs", "batch"),
    [
        ("mars_7b_stage1", STAGE1, 256, 200_000_000, 1, 4096),
        ("mars_7b_stage2", STAGE2, 512, 50_000_000, 2, 1536),
        ("mars_7b_stage3", STAGE3, 1024, 10_000_000, 1, 1536),
    ],
)
def test_a_stage_sees_its_pairs(name, stage, resolution, pairs, epochs, batch):
    config = get_recipe(name)
    assert config.image.resolution == resolution
    # samples of one step = micro-batches x samples that fit into one
    fitting = (config.data.micro_batch_tokens - RESERVED_ROWS) // stage.tokens_per_sample
    assert config.training.global_batch_size * fitting == batch
    samples = config.training.steps * batch
    assert pairs * epochs <= samples < pairs * epochs + batch


def test_digits_start_from_their_base():
    """The checkpoint of digits_base must fit digits: same shape, ids and images; what is trained is exchanged."""
    base, run = get_recipe("digits_base"), get_recipe("digits")
    assert (base.model, base.vocabulary, base.image) == (run.model, run.vocabulary, run.image)
    assert base.freeze == FreezeConfig(text=False, visual=True, norms=False)
    assert run.freeze == FreezeConfig(text=True, visual=False, norms=True)
    for config in (base, run):  # the quickstart's layout
        validate(replace(config, parallel=ParallelConfig(tensor=2, sequence=True)), 2)


def test_stage_three_is_super_resolution():
    config = validate(get_recipe("mars_7b_stage3"))
    assert config.data.tasks == TaskWeights(t2i=0.0, i2t=0.0, sr=1.0)
    assert (config.image.low_resolution, config.image.resolution) == (512, 1024)
    assert (config.image.next_k, config.image.order) == (4, "regions")
