"""Which scenes there are, and which of them training never sees."""

import pytest

from examples.compositional.scenes import COLOURS, SPLITS, Scene, Thing, divide


def test_splits_share_no_scene_and_no_unseen_pair():
    division = divide(8, 0.2, seed=3)
    unseen = set(division.unseen)
    sets = {name: set(division.scenes[name]) for name in SPLITS}
    assert len(unseen) == 8 and all(len(sets[name]) == len(division.scenes[name]) > 50 for name in SPLITS)
    assert not sets["seen"] & sets["unseen_combinations"]
    for name in ("seen", "unseen_combinations"):
        assert not any({scene.first, scene.second} & unseen for scene in sets[name])
    assert all({scene.first, scene.second} <= unseen for scene in sets["unseen_pairs"])
    share = len(sets["unseen_combinations"]) / (len(sets["unseen_combinations"]) + len(sets["seen"]))
    assert 0.15 < share < 0.25


@pytest.mark.parametrize("unseen_pairs", [2, 8, 20])
def test_every_digit_and_every_colour_stays_in_training(unseen_pairs):
    division = divide(unseen_pairs, 0.2, seed=0)
    things = {thing for scene in division.scenes["seen"] for thing in (scene.first, scene.second)}
    assert len(things) == 40 - unseen_pairs and not things & set(division.unseen)
    for digit in range(10):
        assert sum(thing.digit == digit for thing in things) >= 2
    for colour in COLOURS:
        assert sum(thing.colour == colour for thing in things) >= 4


def test_the_things_of_a_scene_differ_in_digit_and_colour():
    for scenes in divide(8, 0.2, seed=0).scenes.values():
        assert all(s.first.digit != s.second.digit and s.first.colour != s.second.colour for s in scenes)


def test_the_seed_decides():
    assert divide(8, 0.2, seed=1) == divide(8, 0.2, seed=1)
    assert divide(8, 0.2, seed=1).unseen != divide(8, 0.2, seed=2).unseen


def test_scenes_as_plain_values():
    scene = Scene(Thing(3, "red"), "left of", Thing(7, "blue"))
    assert Scene.from_dict(scene.to_dict()) == scene
    with pytest.raises(ValueError, match="no first, relation and second"):
        Scene.from_dict({"first": 3})
    with pytest.raises(ValueError, match="colours red, green, blue, yellow"):
        Scene.from_dict({**scene.to_dict(), "first": {"digit": 3, "colour": "pink"}})
