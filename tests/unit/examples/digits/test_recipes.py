"""The digits twins of the three stages: each is few lines over the former one, and starts from its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.compositional import recipes as compositional
from examples.digits import recipes
from mars_megatron.config import validate
from mars_megatron.config.parser import override
from mars_megatron.config.schema import FreezeConfig, ParallelConfig, RunConfig, TaskWeights
from mars_megatron.sequence.vocabulary import SPECIALS
from mars_megatron.training import Trainer
from tests.support.synthetic_index import CODEBOOK_SIZE, TEXT_SIZE, write_synthetic

TABLES = ("embedding.visual.weight", "head.visual.weight")
STAGES = ("stage1", "stage2", "stage3")


def settings_of(config: RunConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in RunConfig.__dataclass_fields__}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_valid_in_the_layout_of_the_example(name: str) -> None:
    validate(replace(getattr(recipes, name)(), parallel=ParallelConfig(tensor=2)), 2)


def test_what_each_stage_changes() -> None:
    base, first, second, third = (getattr(recipes, name)() for name in ("base", *STAGES))
    assert first == recipes.mars()
    assert (base.model, base.vocabulary) == (first.model, first.vocabulary)
    for before, after, changed in (
        (first, second, {"image", "data", "optimizer", "training", "checkpoint"}),
        (second, third, {"image", "data", "optimizer", "training"}),
    ):
        ours, theirs = settings_of(after), settings_of(before)
        assert {name for name in ours if ours[name] != theirs[name]} <= changed
        assert after.checkpoint.init_visual == "keep"
    assert second.image.resolution == 2 * first.image.resolution
    assert third.image.low_resolution == first.image.resolution and third.image.resolution == second.image.resolution
    assert (third.image.next_k, third.image.order) == (4, "regions")
    assert third.data.tasks == TaskWeights(t2i=0.0, i2t=0.0, sr=1.0)


def test_mars_starts_from_its_base() -> None:
    """The checkpoint of `base` must fit `mars`: same shape, ids and images; what is trained is exchanged."""
    base, run = recipes.base(), recipes.mars()
    assert (base.model, base.vocabulary, base.image) == (run.model, run.vocabulary, run.image)
    assert base.freeze == FreezeConfig(text=False, visual=True, norms=False)
    assert run.freeze == FreezeConfig(text=True, visual=False, norms=True)
    for config in (base, run):  # the quickstart's layout
        validate(replace(config, parallel=ParallelConfig(tensor=2, sequence=True)), 2)


@pytest.mark.parametrize(
    "recipe",
    [compositional.base, compositional.mars, recipes.base],
    ids=["compositional.base", "compositional.mars", "digits.base"],
)
def test_data_parallel_recipes_are_valid_on_two_ranks(recipe) -> None:
    validate(recipe(), 2)


def tiny(name: str, data: str, folder: Path, init_from: Path | None = None) -> RunConfig:
    """A stage of the recipe with a tiny model, one step on a synthetic index."""
    settings: dict[str, object] = {
        **{"model.num_layers": 2, "model.hidden_size": 16, "model.ffn_hidden_size": 16},
        **{"model.num_attention_heads": 2, "model.num_query_groups": 2},
        **{"vocabulary.text_size": TEXT_SIZE, "vocabulary.codebook_size": CODEBOOK_SIZE},
        **{"training.steps": 1, "data.path": data, "checkpoint.dir": folder},
        **{"data.micro_batch_tokens": 300, "data.prefetch": 0},
        **{"logging.tensorboard": False, "logging.progress": False},
    }
    if init_from:
        settings["checkpoint.init_from"] = init_from
    return override(getattr(recipes, name)(), [f"--{setting}={value}" for setting, value in settings.items()])


def test_each_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    """Token counts and positions change with the resolution; every weight is carried over."""
    low = write_synthetic(tmp_path / "low", ["image", "text"] * 60, side=4)
    pairs = write_synthetic(tmp_path / "pairs", ["pair"] * 60, side=8)
    source: Path | None = None
    after: dict[str, torch.Tensor] = {}
    for name, data in (("base", low), (STAGES[0], low), (STAGES[1], pairs), (STAGES[2], pairs)):
        trainer = Trainer(tiny(name, data, tmp_path / name, source))
        before = parameters(trainer)
        if name in STAGES[1:]:  # the first stage has its visual experts of the language model
            for key, value in after.items():
                # Behind the codes and specials of a table stage III has start slots.
                rows = CODEBOOK_SIZE + len(SPECIALS) if key in TABLES else len(value)
                assert torch.equal(value[:rows], before[key][:rows]), (name, key)
        result = trainer.run()
        assert result is not None and result.loss > 0
        after = parameters(trainer)
        trained = [key for key in after if not torch.equal(after[key], before[key])]
        assert trained and all((".visual." in key) == (name in STAGES) for key in trained)
        source = tmp_path / name


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.chunks[0].named_parameters()}
