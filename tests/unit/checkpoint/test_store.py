"""A checkpoint gives back what was saved, and only to the model it was made for."""

from __future__ import annotations

import multiprocessing
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mars_megatron.checkpoint import Position, load, load_model, read_config, save
from mars_megatron.checkpoint.compatible import check_same_model, check_same_training
from mars_megatron.checkpoint.rng import rng_state, set_rng_state
from mars_megatron.compat import megatron_core
from mars_megatron.config import to_yaml
from mars_megatron.config.parser import override
from mars_megatron.config.schema import CheckpointConfig, ImageConfig, ModelConfig, RunConfig
from mars_megatron.model import build_model
from mars_megatron.sequence.vocabulary import SPECIALS
from mars_megatron.training.optimizer import build_optimizer, wrap_data_parallel
from tests.support.tiny import one_rank

CONFIG = RunConfig(
    model=ModelConfig(num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=2, num_query_groups=1),
    checkpoint=CheckpointConfig(keep=1),
)


class Parts:
    """What a checkpoint is made of, with random parameters; with random moments too after `num_steps` above 0."""

    def __init__(self, seed: int, num_steps: int = 0, config: RunConfig = CONFIG) -> None:
        self.groups = one_rank()
        self.chunks = build_model(config, self.groups)
        wrapped = wrap_data_parallel(self.chunks, config, self.groups)
        self.optimizer, self.scheduler = build_optimizer(wrapped, config, self.groups)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.chunks[0].parameters():
                parameter.copy_(torch.randn(parameter.shape))
        self.optimizer.reload_model_params()
        for _ in range(num_steps):
            self.step()

    def step(self) -> None:
        """One optimiser step on random gradients."""
        for parameter in self.chunks[0].parameters():
            if parameter.requires_grad:
                parameter.main_grad.copy_(torch.randn(parameter.shape))
        self.scheduler.step(increment=1)
        assert self.optimizer.step()[0]

    def values(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.chunks[0].named_parameters()}

    def for_store(self) -> tuple:
        return self.groups, self.chunks, self.optimizer, self.scheduler


def test_saving_leaves_no_process(tmp_path: Path) -> None:
    """megatron-core's manager would answer to signals that are meant for the run, and outlive it."""
    parts = Parts(1, num_steps=1)
    for step in (1, 2):
        save(tmp_path, Position(step), CONFIG, *parts.for_store())
        assert not multiprocessing.active_children()


def test_new_start_slots_start_as_the_begin_of_an_image(tmp_path: Path) -> None:
    first = Parts(seed=1, num_steps=1)
    save(tmp_path, Position(1, 1), CONFIG, *first.for_store())
    # Four rows more than the padded table has.
    config = replace(CONFIG, image=ImageConfig(resolution=16, low_resolution=8, next_k=8))
    (model,) = build_model(config, first.groups)
    load_model(tmp_path, config, first.groups, [model])
    known = CONFIG.vocabulary.codebook_size + len(SPECIALS)
    boi = CONFIG.vocabulary.codebook_size
    for name, value in model.named_parameters():
        saved = dict(first.chunks[0].named_parameters())[name]
        if value.shape == saved.shape:
            assert torch.equal(value, saved), name
        else:
            assert name in ("embedding.visual.weight", "head.visual.weight")
            assert value.shape[0] > saved.shape[0]
            assert torch.equal(value[:known], saved[:known])
            assert torch.equal(value[known : known + 7], saved[boi].expand(7, -1))
    with pytest.raises(ValueError, match="image.next_k is 8, the checkpoint has 1"):
        load(tmp_path / "step_00000001", config, *first.for_store())


def test_everything_comes_back(tmp_path: Path) -> None:
    first = Parts(seed=1, num_steps=2)
    saved = first.values()
    folder = save(tmp_path, Position(4, 8), CONFIG, *first.for_store())
    assert folder == tmp_path / "step_00000004" and read_config(folder) == CONFIG
    after_saving = torch.rand(3)
    lr = first.optimizer.param_groups[0]["lr"]
    first.step()
    expected = first.values()

    second = Parts(seed=2)
    assert load(folder, CONFIG, *second.for_store()) == Position(4, 8)
    assert torch.equal(torch.rand(3), after_saving), "the random state is restored"
    for name, value in second.values().items():
        assert torch.equal(value, saved[name]), name
    assert second.scheduler.num_steps == 2 and second.optimizer.param_groups[0]["lr"] == lr
    second.step()  # with the same gradients: the generator is where it was
    for name, value in second.values().items():
        assert torch.equal(value, expected[name]), name
    trained = "decoder.layers.1.mlp.visual.linear_fc1.weight"
    assert not torch.equal(expected[trained], saved[trained])


@pytest.mark.parametrize("rates", [{"lr": 5e-4}, {"min_lr": 0.0}, {"lr": 2e-2, "min_lr": 2e-2}], ids=str)
def test_a_run_goes_on_with_other_learning_rates(tmp_path: Path, rates: dict[str, float]) -> None:
    """By the rates too, megatron-core 0.19 tells which saved group of parameters is which."""
    first = Parts(seed=1, num_steps=1)
    folder = save(tmp_path, Position(1, 1), CONFIG, *first.for_store())
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, **rates))
    second = Parts(seed=2, config=config)
    assert load(folder, config, *second.for_store()).step == 1
    assert {name: second.optimizer.param_groups[0][f"max_{name}" if name == "lr" else name] for name in rates} == rates
    assert {int(group["step"]) for group in second.optimizer.param_groups} == {1}


def test_the_sums_of_a_checkpoint_cover_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, checkpoint=replace(CONFIG.checkpoint, verify_integrity=True))
    seen: list[str] = []
    monkeypatch.setattr(megatron_core, "write_sums", lambda folder: seen.extend(path.name for path in folder.iterdir()))
    folder = save(tmp_path, Position(1, 1), config, *Parts(seed=1, num_steps=1).for_store())
    assert set(seen) == {path.name for path in folder.iterdir()} >= {"common.pt", "config.yaml", ".metadata"}


def test_the_model_alone(tmp_path: Path) -> None:
    first = Parts(seed=1, num_steps=1)
    folder = save(tmp_path, Position(1, 2), CONFIG, *first.for_store())
    second = Parts(seed=2)
    assert load_model(tmp_path, CONFIG, second.groups, second.chunks) == folder
    for name, value in second.values().items():
        assert torch.equal(value, first.values()[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_parameters_that_are_no_numbers_are_not_loaded(tmp_path: Path, value: float) -> None:
    """By no way of loading them."""
    first = Parts(seed=1, num_steps=1)
    name = "decoder.layers.1.mlp.visual.linear_fc2.weight"
    with torch.no_grad():
        dict(first.chunks[0].named_parameters())[name][2, 5] = value
    folder = save(tmp_path, Position(1, 1), CONFIG, *first.for_store())
    other = Parts(seed=2)
    what = rf"{name} has 1 of 384 values that are no numbers, the first is {value} at \[2, 5\]"
    message = rf"step_00000001, as this rank holds it: {what}"
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path, CONFIG, other.groups, other.chunks)
    with pytest.raises(ValueError, match=message):
        load(folder, CONFIG, *other.for_store())
    load_model(tmp_path, CONFIG, other.groups, other.chunks, text_only=True)  # reads no visual parameter


def test_old_and_half_written_checkpoints_go(tmp_path: Path) -> None:
    parts = Parts(seed=1, num_steps=1)
    (tmp_path / "step_00000002.incomplete").mkdir()
    for step in (1, 2):
        save(tmp_path, Position(step, step), CONFIG, *parts.for_store())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000002"]


def test_rng_state_round_trip() -> None:
    Parts(seed=1)
    state = rng_state()

    def draw() -> tuple:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model.num_layers": 3}, "model.num_layers is 3, the checkpoint has 2"),
        ({"model.expert_norms": True}, "model.expert_norms is True, the checkpoint has False"),
        ({"model.rope_base": 500.0}, "model.rope_base is 500.0, the checkpoint has 10000.0"),
        ({"vocabulary.text_size": 600}, "vocabulary.text_size is 600, the checkpoint has 512"),
        ({"vocabulary.pad_multiple": 16}, "vocabulary.pad_multiple is 16, the checkpoint has 8"),
        ({"experts.visual": 2}, "experts.visual is 2, the checkpoint has 1"),
        ({"experts.text": 2}, "experts.text is 2, the checkpoint has 1"),
        (
            {"experts.visual": 2, "router.top_k": 2},
            "experts.visual is 2, the checkpoint has 1; router.top_k is 2, the checkpoint has 1",
        ),
        ({"image.resolution": 32}, "image.resolution is 32, the checkpoint has 16"),
        (
            {"image.low_resolution": 8, "image.next_k": 4, "image.order": "regions"},
            "image.low_resolution is 8, the checkpoint has 0; image.next_k is 4, the checkpoint has 1; "
            "image.order is regions, the checkpoint has raster",
        ),
    ],
)
def test_another_model_is_refused(tmp_path: Path, changed: dict, message: str) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(CONFIG))
    config = override(CONFIG, [f"--{name}={value}" for name, value in changed.items()])
    with pytest.raises(ValueError) as error:
        check_same_model(tmp_path, config)
    assert str(error.value) == f"{tmp_path} is a checkpoint of another model: {message}"


def test_all_differences_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(CONFIG))
    config = override(CONFIG, ["--model.hidden_size=32", "--vocabulary.codebook_size=4", "--image.downsample=8"])
    with pytest.raises(ValueError, match=r"model\.hidden_size.*vocabulary\.codebook_size.*image\.downsample"):
        check_same_model(tmp_path, config)


def test_what_may_differ(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(CONFIG))
    others = ("--model.init_std=0.5", "--model.embedding_init_std=1", "--training.steps=7", "--optimizer.lr=0.5")
    assert check_same_model(tmp_path, override(CONFIG, [*others, "--parallel.tensor=2"])) == CONFIG
    visual = ("--experts.visual=4", "--router.condition=text")
    assert check_same_model(tmp_path, override(CONFIG, [*others, *visual]), visual=False) == CONFIG
    assert check_same_model(tmp_path, override(CONFIG, ["--image.resolution=32"]), image=False) == CONFIG
    # The language model that stage III came from, where text is compared.
    third = ("--image.resolution=32", "--image.low_resolution=16", "--image.next_k=4", "--model.shared_experts=true")
    assert check_same_model(tmp_path, override(CONFIG, third), image=False, visual=False) == CONFIG


@pytest.mark.parametrize("changed", ["--freeze.norms=False", "--data.seed=5", "--training.precision=bf16"])
def test_a_run_goes_on_as_it_began(tmp_path: Path, changed: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot be resumed: {changed[2:].split('=')[0]} is .*, the checkpoint has"):
        check_same_training(tmp_path, CONFIG, override(CONFIG, [changed]))
    check_same_training(tmp_path, CONFIG, override(CONFIG, ["--optimizer.lr=0.5", "--training.steps=9"]))


def test_a_plain_optimizer_keeps_its_expert_parallelism(tmp_path: Path) -> None:
    plain = override(CONFIG, ["--parallel.distributed_optimizer=False"])
    with pytest.raises(ValueError, match=r"parallel\.expert is 2, the checkpoint has 1"):
        check_same_training(tmp_path, plain, override(plain, ["--parallel.expert=2"]))
    check_same_training(tmp_path, CONFIG, override(CONFIG, ["--parallel.expert=2"]))


def test_no_configuration_beside_the_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml does not exist"):
        check_same_model(tmp_path, CONFIG)
