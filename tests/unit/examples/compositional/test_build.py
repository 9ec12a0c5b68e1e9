"""The benchmark as it is written."""

import json

import pytest
import torch

from examples.compositional.build import BuildSettings, write_benchmark
from examples.compositional.canvases import SIDE, TILE, Painter
from examples.compositional.language import caption
from examples.compositional.scenes import SPLITS, Scene, Thing

SETTINGS = BuildSettings(canvases=60, held_out=30, documents=20, prompts=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark")
    write_benchmark(path, SETTINGS, progress=False)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def said_of(line):
    """Every prompt of the scene in the language of a line."""
    scene = Scene.from_dict(line["scene"])
    return {caption(scene, line["group"], form, other) for form in range(4) for other in (False, True)}


def test_what_is_written(folder):
    train, held_out = lines(folder / "train" / "captions.jsonl"), lines(folder / "held_out" / "captions.jsonl")
    assert len(train) == 60 and {line["split"] for line in train} == {"seen"}
    assert [line["split"] for line in held_out] == [name for name in SPLITS for _ in range(10)]
    assert all((folder / "train" / line["image"]).is_file() and len(line["captions"]) == 4 for line in train)
    prompts = lines(folder / "prompts.jsonl")
    assert len(prompts) == 30 and len({(line["split"], line["group"]) for line in prompts}) == 6
    assert all(line["prompt"] in said_of(line) for line in prompts)
    for line, fact in zip(prompts, lines(folder / "facts.jsonl"), strict=True):
        assert fact["group"] == line["split"] and fact["prompt"].startswith(f"{line['prompt']} . ")
        assert fact["prompt"].endswith(" :") and any(fact["answer"] in text for text in said_of(line))
    assert len((folder / "text" / "captions.jsonl").read_text(encoding="utf-8").splitlines()) == 20


def test_training_has_nothing_of_the_unseen_splits(folder):
    unseen = {
        (thing["digit"], thing["colour"]) for thing in json.loads((folder / "settings.json").read_text())["unseen"]
    }
    train = {Scene.from_dict(line["scene"]) for line in lines(folder / "train" / "captions.jsonl")}
    assert len(unseen) == 8
    assert not unseen & {(thing.digit, thing.colour) for scene in train for thing in (scene.first, scene.second)}
    asked = {name: set() for name in SPLITS}
    for line in [*lines(folder / "prompts.jsonl"), *lines(folder / "held_out" / "captions.jsonl")]:
        asked[line["split"]].add(Scene.from_dict(line["scene"]))
    assert not train & (asked["unseen_combinations"] | asked["unseen_pairs"])


def test_the_same_settings_write_the_same(folder, tmp_path):
    write_benchmark(tmp_path, SETTINGS, progress=False)
    for path in folder.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path
    write_benchmark(tmp_path, BuildSettings(canvases=60, held_out=30, documents=20, prompts=5, seed=1), progress=False)
    assert (tmp_path / "train" / "000000.png").read_bytes() != (folder / "train" / "000000.png").read_bytes()


def test_canvases_show_their_scenes():
    scenes = [
        Scene(Thing(3, "red"), "left of", Thing(7, "blue")),
        Scene(Thing(1, "green"), "above", Thing(0, "yellow")),
    ]
    canvases = Painter("train").paint(scenes * 20)
    assert canvases.shape == (40, 3, SIDE, SIDE) and canvases.dtype == torch.uint8
    beside, stacked = canvases[::2].float(), canvases[1::2].float()
    assert beside[:, 0, :, TILE:].max() == beside[:, 2, :, :TILE].max() == beside[:, 1].max() == 0
    assert stacked[:, 0, :TILE].max() == stacked[:, 2].max() == 0
    assert (beside[:, 0].amax((1, 2)) > 150).all() and (stacked[:, 1, TILE:].amax((1, 2)) > 150).all()
    assert torch.equal(stacked[:, 0, TILE:], stacked[:, 1, TILE:])
    assert len({canvas.numpy().tobytes() for canvas in canvases}) == 40


@pytest.mark.parametrize(
    ("setting", "value", "accepted"),
    [
        ("canvases", 0, "1 or more"),
        ("unseen_pairs", 1, "2 to 20"),
        ("unseen_share", 1.0, "between 0 and 1"),
        ("caption_forms", 5, "1 to 4"),
    ],
)
def test_settings_out_of_range(setting, value, accepted):
    with pytest.raises(ValueError, match=f"{setting} is {value}; accepted: {accepted}"):
        BuildSettings(**{setting: value})
