"""Judging canvases."""

from dataclasses import replace

import pytest
import torch

from examples.compositional.canvases import Painter
from examples.compositional.finding import CROP, find
from examples.compositional.scenes import HORIZONTAL, Scene, Thing, divide
from examples.compositional.scorer import MEASURES, Scorer

SCENES = [scene for scenes in divide(8, 0.2, seed=0).scenes.values() for scene in scenes[::5]]


@pytest.fixture(scope="module")
def scorer():
    return Scorer(Painter("train").paint(SCENES), SCENES)


@pytest.fixture(scope="module")
def canvases():
    return Painter("held_out", seed=1).paint(SCENES)


def shares(judgements):
    return {name: sum(float(getattr(judged, name)) for judged in judgements) / len(judgements) for name in MEASURES}


def test_real_canvases_of_unknown_handwriting_are_right(scorer, canvases):
    found = shares(scorer.judge(canvases, SCENES))
    assert found["colour"] == found["relation"] == 1.0
    assert found["digit"] >= 0.96 and found["joint"] == found["binding"] >= 0.92


def test_images_in_either_order_of_axes(scorer, canvases):
    assert scorer.judge(canvases[:40], SCENES[:40]) == scorer.judge(canvases[:40].permute(0, 2, 3, 1), SCENES[:40])


def test_a_wrong_colour_is_seen(scorer, canvases):
    others = {"red": "green", "green": "blue", "blue": "yellow", "yellow": "red"}
    asked = []
    for scene in SCENES:
        colour = next(
            c for c in (others[scene.first.colour], *others) if c not in (scene.first.colour, scene.second.colour)
        )
        asked.append(replace(scene, first=replace(scene.first, colour=colour)))
    found = shares(scorer.judge(canvases, asked))
    assert found["colour"] == found["relation"] == found["binding"] == 0.0 and found["digit"] >= 0.96


def test_a_wrong_relation_is_seen(scorer, canvases):
    turned = [replace(scene, first=scene.second, second=scene.first) for scene in SCENES]
    found = shares(scorer.judge(canvases, turned))
    assert found["relation"] == found["joint"] == 0.0
    # the things themselves are there, each in its own colour
    assert found["colour"] == 1.0 and found["digit"] >= 0.96 and found["binding"] >= 0.92
    other_axis = {"left of": "above", "above": "left of"}
    found = shares(scorer.judge(canvases, [replace(scene, relation=other_axis[scene.relation]) for scene in SCENES]))
    assert found["relation"] == 0.0 and found["colour"] == 1.0


def test_exchanged_colours_are_wrong_bindings(scorer, canvases):
    asked = [
        replace(
            scene,
            first=replace(scene.first, colour=scene.second.colour),
            second=replace(scene.second, colour=scene.first.colour),
        )
        for scene in SCENES
    ]
    judgements = scorer.judge(canvases, asked)
    found = shares(judgements)
    assert found["colour"] == 1.0 and found["binding"] == 0.0 and found["digit"] < 0.05
    assert sum(judged.exchanged for judged in judgements) / len(judgements) >= 0.92
    assert not any(judged.exchanged for judged in scorer.judge(canvases, SCENES))


def test_what_is_no_canvas(scorer):
    noise = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for images in (noise, torch.zeros_like(noise), torch.full_like(noise, 255)):
        found = shares(scorer.judge(images, SCENES[:20]))
        assert found["colour"] == found["relation"] == found["joint"] == 0.0
    assert scorer.judge(noise[:0], []) == []


def test_where_things_are_found(canvases):
    found = find(canvases)
    assert found.crops.shape == (len(SCENES), 2, 3, CROP, CROP) and found.crops.dtype == torch.uint8
    assert found.horizontal.tolist() == [scene.relation in HORIZONTAL for scene in SCENES]
    assert found.colours == [(scene.first.colour, scene.second.colour) for scene in SCENES]
    # a thing is alone on its crop: as much brightness as its half of the canvas has, but for a wide one's ends
    ratios = []
    for canvas, crop, scene in zip(canvases, found.crops[:, 0, 0], SCENES, strict=True):
        gray = canvas.amax(0)
        half = gray[:, :16] if scene.relation in HORIZONTAL else gray[:16]
        ratios.append(float(crop.sum() / half[half >= 64].sum()))
    assert sum(0.95 <= ratio <= 1.05 for ratio in ratios) >= 0.9 * len(ratios) and 0.7 < min(ratios) < max(ratios) < 1.1


def test_one_thing_alone_is_not_two():
    scene = Scene(Thing(3, "red"), "left of", Thing(7, "blue"))
    alone = Painter("held_out").paint([scene] * 10)
    alone[:, 2] = 0
    assert all(set(colours) <= {"red", None} for colours in find(alone).colours)
