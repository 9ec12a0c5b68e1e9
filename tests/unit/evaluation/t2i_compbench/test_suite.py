"""Prompt files of every category, drawn by a tiny model and scored by tiny judges, end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_megatron.evaluation.t2i_compbench.compbench import T2ICompBench
from mars_megatron.sampling import Sampler, load_for_inference
from tests.support.small_context import SmallContext
from tests.support.tiny_judges import write_blip, write_clip, write_depth, write_detector
from tests.support.tiny_run import write_run

PROMPTS = {
    "color_val": ["a red square and a blue circle", "a green cup and a red dog"],
    "spatial_val": ["a dog on the left of a cup", "a boy near a dog"],
    "3d_spatial_val": ["a dog in front of a cup"],
    "non_spatial_val": ["A dog is resting."],
    "numeracy_val": ["two dogs and a cup"],
    "complex_val": ["The red cup was near the blue dog.", "The green dog slept."],
}
OWN_SCORER = """
class Brightness:
    def __call__(self, images, prompts):
        assert images.shape[3] == 3 and len(images) == len(prompts)
        return images.float().mean(dim=(1, 2, 3)) / 255

value = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t2i_compbench")
    for name, prompts in PROMPTS.items():
        (folder / f"{name}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    (folder / "complex_val_action.txt").write_text("The green dog slept.\n")
    (folder / "own.py").write_text(OWN_SCORER)
    (folder / "run").mkdir()
    return folder


@pytest.fixture(scope="module")
def sampler(folder: Path) -> Sampler:
    return Sampler(load_for_inference(write_run(folder / "run").checkpoint))


@pytest.fixture(scope="module")
def suite(folder: Path) -> T2ICompBench:
    return T2ICompBench(
        tuple(str(folder / f"{name}.txt") for name in PROMPTS),
        vqa=str(write_blip(folder / "blip")),
        detector=str(write_detector(folder / "yolos")),
        clip=str(write_clip(folder / "clip", max_tokens=60)),
        depth=str(write_depth(folder / "dpt")),
        detector_threshold=0.0,
        samples_per_prompt=2,
        judge_batch_size=3,
    )


def test_every_category_end_to_end(suite: T2ICompBench, sampler: Sampler, folder: Path, tmp_path: Path) -> None:
    suite = replace(suite, images_folder=str(tmp_path / "images"))
    suite.check()
    result = suite.run(SmallContext(sampler))
    assert list(result.scores) == [
        "color_val_vqa",
        "spatial_val_detector",
        "3d_spatial_val_depth",
        "non_spatial_val_clip",
        "numeracy_val_count",
        "complex_val_3_in_1",
    ]
    assert [score.count for score in result.scores.values()] == [2, 2, 1, 1, 1, 2]
    assert all(-1 <= score.value <= 1 for score in result.scores.values())
    assert 0 < result.scores["color_val_vqa"].value < 1
    assert result.details["complex_val"]["num_images"] == 4
    assert result.details["complex_val"]["detector"]["num_prompts_without_relation"] == 0
    files = sorted(path.name for path in (tmp_path / "images" / "complex_val" / "samples").iterdir())
    assert files == [
        "The green dog slept._000002.png",
        "The green dog slept._000003.png",
        "The red cup was near the blue dog._000000.png",
        "The red cup was near the blue dog._000001.png",
    ]


def test_a_complex_prompt_counts_in_the_ways_of_its_own(
    suite: T2ICompBench, sampler: Sampler, folder: Path, tmp_path: Path
) -> None:
    images = sampler.decode(sampler.sample(PROMPTS["complex_val"], 2))
    complex_file = replace(suite, prompts=(str(folder / "complex_val.txt"),))

    def score(max_prompts: int, category: str = "") -> float:
        part = replace(complex_file, max_prompts=max_prompts, category=category)
        (found,) = part.run(SmallContext(sampler, images[: 2 * max_prompts])).scores.values()
        return found.value

    ways = ("color", "spatial", "non_spatial")
    first = {category: score(1, category) for category in ways}
    second = {category: 2 * score(2, category) - first[category] for category in ways}
    assert score(1) == pytest.approx(sum(first.values()) / 3)
    two_ways = (second["color"] + second["non_spatial"]) / 2  # the list of actions has it
    assert score(2) == pytest.approx((sum(first.values()) / 3 + two_ways) / 2)


def test_own_scorer(suite: T2ICompBench, sampler: Sampler, folder: Path, tmp_path: Path) -> None:
    own = replace(
        suite, prompts=(str(folder / "color_val.txt"),), scorer=f"{folder / 'own.py'}:Brightness", vqa="missing"
    )
    own.check()
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 8, 8, 3) * 50
    result = own.run(SmallContext(sampler, images))
    assert result.scores["color_val_Brightness"].value == pytest.approx(75 / 255)


def test_images_alone(suite: T2ICompBench, sampler: Sampler, folder: Path, tmp_path: Path) -> None:
    alone = replace(
        suite, prompts=(str(folder / "own_prompts.txt"),), scorer="none", images_folder=str(tmp_path / "images")
    )
    long = "a very_long/prompt " * 20
    (folder / "own_prompts.txt").write_text(f"{long}\n")
    alone.check()
    assert alone.run(SmallContext(sampler)).scores == {}
    names = sorted(path.name for path in (tmp_path / "images/own_prompts/samples").iterdir())
    assert [name.split("_")[-1] for name in names] == ["000000.png", "000001.png"]
    assert names[0].startswith("a very long prompt a very") and len(names[0]) < 250
    (folder / "own_prompts.txt").write_text("another\n")
    with pytest.raises(ValueError, match="holds 2 other images"):
        alone.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ()}, "prompts is empty"),
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0"),
        ({"detector_threshold": 1.0}, "detector_threshold is 1.0"),
        ({"detector": ""}, "spatial_val.txt is of category spatial, for which detector is needed"),
        ({"vqa": "no/such/model"}, "vqa is no/such/model, which AutoConfig cannot open"),
        ({"scorer": "none"}, "without images_folder"),
        ({"scorer": "nonsense"}, "scorer is 'nonsense'; accepted: auto, none"),
        ({"scorer": "OWN:value"}, "cannot be called"),
        ({"scorer": "OWN:value:argument"}, "cannot be called"),
        ({"scorer": "OWN:Brightness:argument"}, "too many positional arguments; accepted: auto, none"),
        ({"scorer": "nonsense:more:yet"}, "there is no module nonsense in .* accepted: auto, none"),
        ({"category": "colour"}, "category is 'colour'"),
    ],
)
def test_wrong_options(suite: T2ICompBench, folder: Path, changes: dict[str, object], message: str) -> None:
    changes = {
        name: value.replace("OWN", str(folder / "own.py")) if name == "scorer" else value
        for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        replace(suite, **changes).check()
