"""The recipes hold the paper's figures, and are runs that validation accepts."""

import re
import sys
from pathlib import Path

import pytest

from mars_megatron.config import RunConfig, validate
from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import TaskWeights
from mars_megatron.recipes import RECIPES, get_recipe
from mars_megatron.recipes.mars_7b import STAGE1, STAGE2, STAGE3
from mars_megatron.sequence.vocabulary import Vocabulary

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("tiny", 1),
        # One model takes four ranks; the paper's 64 samples on each of 64 GPUs, and as many models as micro-batches.
        *((name, ranks) for name in ("mars_7b_stage1", "mars_7b_stage2", "mars_7b_stage3") for ranks in (4, 64)),
        ("mars_7b_stage1", 1024),
        ("mars_7b_stage2", 768),
        ("mars_7b_stage3", 3072),
    ],
)
def test_recipes_are_valid_on_the_ranks_that_they_are_made_for(name, ranks):
    config = validate(get_recipe(name), ranks)
    assert ranks <= 4 * config.training.global_batch_size


def test_every_recipe_is_validated():
    (cases,) = (
        mark.args[1] for mark in test_recipes_are_valid_on_the_ranks_that_they_are_made_for.pytestmark if mark.args
    )
    assert {name for name, _ in cases} == set(RECIPES)


@pytest.mark.parametrize(
    ("name", "ranks", "message"),
    [
        ("tiny", 3, "training.global_batch_size"),
        ("mars_7b_stage1", 2, "one model takes 4 ranks, but there are 2"),
        ("mars_7b_stage2", 2 * 768, "training.global_batch_size"),
    ],
)
def test_other_numbers_of_ranks_are_refused(name, ranks, message):
    with pytest.raises(ValueError, match=message):
        validate(get_recipe(name), ranks)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="--recipe is 'mars_70b'; accepted: tiny, .*package.module.name"):
        get_recipe("mars_70b")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("digits", "examples.digits.recipes.mars"),
        ("digits_base", "examples.digits.recipes.base"),
        ("digits_stage3", "examples.digits.recipes.stage3"),
        ("compositional", "examples.compositional.recipes.mars"),
        ("compositional_base", "examples.compositional.recipes.base"),
    ],
)
def test_a_short_name_of_earlier_versions_leads_to_the_example(name, found, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=f"--recipe is '{name}', perhaps {re.escape(found)}; accepted"):
        get_recipe(name)
    assert isinstance(get_recipe(found), RunConfig)


MINE = """
from mars_megatron.config import RunConfig

def small():
    return RunConfig()

def steps(count):
    return RunConfig()

def other():
    return {"model": {}}

value = 3
"""


@pytest.mark.parametrize("form", ["my_recipes.small", "my_recipes:small", "my_recipes.py:small", "deep.er.mine.small"])
def test_a_recipe_of_the_current_directory(form, tmp_path, monkeypatch):
    (tmp_path / "my_recipes.py").write_text(MINE)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    monkeypatch.chdir(tmp_path)
    assert get_recipe(form) == RunConfig()
    for name in ("my_recipes", "deep", "deep.er", "deep.er.mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no.such.module.mine",
            "there is no module no in .*; start where it is, .*; accepted: tiny, .*package",
        ),
        ("mine_of_test.absent", "mine_of_test has no absent; it has small, steps, other"),
        ("mine_of_test.steps", "cannot be called without arguments"),
        ("mine_of_test.value", "cannot be called without arguments"),
        ("mine_of_test:other", "which gives a dict; accepted: tiny, "),
        ("mars_megatron.recipes.mars_7b", "a module; name what is meant of .*mars_7b_stage1"),
        ("absent.py:mine", "names the file absent.py, which does not exist"),
        ("my recipe", "--recipe is 'my recipe'; accepted: tiny, "),
        ("", "--recipe is ''; accepted: tiny, "),
    ],
)
def test_wrong_names_say_what_was_looked_for(name, message, tmp_path, monkeypatch):
    (tmp_path / "mine_of_test.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        get_recipe(name)
    sys.modules.pop("mine_of_test", None)


def test_a_dependency_that_is_missing_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_here\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        get_recipe("needs_more.mine")


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


def test_stage_three_is_super_resolution():
    config = validate(get_recipe("mars_7b_stage3"))
    assert config.data.tasks == TaskWeights(t2i=0.0, i2t=0.0, sr=1.0)
    assert (config.image.low_resolution, config.image.resolution) == (512, 1024)
    assert (config.image.next_k, config.image.order) == (4, "regions")
