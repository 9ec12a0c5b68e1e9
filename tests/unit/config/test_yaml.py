"""YAML out and in is exact, and strict."""

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from mars_megatron.config import RunConfig, from_yaml, to_yaml
from mars_megatron.config.schema import LoggingConfig, OptimizerConfig, RopeScalingConfig
from mars_megatron.recipes import RECIPES, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_the_round_trip(name, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(get_recipe(name)), encoding="utf-8")
    assert from_yaml(path) == get_recipe(name)


numbers = st.floats(allow_nan=False, allow_infinity=False)


# Without shrinking: reading takes a tenth of a second.
@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@example(lr=1e-4, eps=1e22, prompts=["\x85 and \u2028", "手写数字三", "", "no", "1e-4", "~"], path="007")
@given(lr=numbers, eps=numbers, prompts=st.lists(st.text(), max_size=3), path=st.text())
def test_any_value_survives_the_round_trip(tmp_path_factory, lr, eps, prompts, path):
    config = replace(
        RunConfig(),
        optimizer=OptimizerConfig(lr=lr, eps=eps),
        logging=LoggingConfig(sample_prompts=tuple(prompts)),
        data=replace(RunConfig().data, path=path),
    )
    file = tmp_path_factory.mktemp("yaml") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert from_yaml(file) == config


def test_a_stretched_rope_survives_the_round_trip(tmp_path):
    scaling = RopeScalingConfig(type="llama3", factor=32.0, low_freq_factor=1.5, original_context=4096)
    config = replace(RunConfig(), model=replace(RunConfig().model, rope_scaling=scaling, qk_norm=True))
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(path) == config
    path.write_text("model: {rope_scaling: {type: linear, factor: 2}}")
    assert from_yaml(path).model.rope_scaling == RopeScalingConfig(type="linear", factor=2.0)


def test_what_a_file_leaves_out_keeps_its_default(tmp_path):
    path = tmp_path / "part.yaml"
    path.write_text("model: {num_layers: 8}\noptimizer:\n  lr: 1e-4\n")
    config = from_yaml(path)
    assert (config.model.num_layers, config.optimizer.lr) == (8, 1e-4)
    assert dataclasses.replace(config.model, num_layers=4) == RunConfig().model
    assert config.data == RunConfig().data


def test_an_empty_file_is_the_default(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert from_yaml(path) == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {num_layer: 3}", r"unknown setting model\.num_layer; accepted here: num_layers, "),
        ("models: {num_layers: 3}", "unknown setting models; accepted here: model, "),
        ("data: {tasks: {t3i: 1}}", r"unknown setting data\.tasks\.t3i"),
        ("model: 3", "model is 3; accepted: a mapping of num_layers"),
        ("model:", "model is None; accepted: a mapping"),
        ("model: {num_layers: many}", r"model\.num_layers"),
        ("model: {num_layers: 3.5}", r"model\.num_layers"),
        ("data: {path: null}", r"data\.path is None; accepted: str"),
        ("freeze: {text: 1}", r"freeze\.text"),
        ("training: {precision: fp16}", r"training\.precision"),
        ("model: {num_layers: 3, num_layers: 4}", "'num_layers' appears twice"),
        ("model: {}\nmodel: {}", "'model' appears twice"),
        ("model: {rope_scaling: llama3}", r"model\.rope_scaling is 'llama3'; accepted: a mapping of type, factor"),
        ("model: {rope_scaling: {type: yarn}}", r"model\.rope_scaling"),
        ("- 1", "holds a list; accepted: a mapping"),
        ("model: [", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        from_yaml(path)
    assert str(path) in str(error.value) or "invalid configuration" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        from_yaml(tmp_path / "nowhere.yaml")
