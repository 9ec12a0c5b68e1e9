"""What is said about scenes."""

import re

import pytest

from examples.compositional.language import (
    COLOUR_WORDS,
    FORMS,
    FROM_SECOND,
    LANGUAGES,
    NUM_FORMS,
    NUMBERS,
    caption,
    captions,
    documents,
    question,
)
from examples.compositional.scenes import Scene, Thing, divide

BESIDE = Scene(Thing(3, "red"), "left of", Thing(7, "blue"))
STACKED = Scene(Thing(3, "red"), "above", Thing(7, "blue"))


def test_captions_say_what_is_where():
    assert caption(BESIDE, "en", 0) == "a red three left of a blue seven"
    assert caption(BESIDE, "en", 0, from_second=True) == "a blue seven right of a red three"
    assert caption(BESIDE, "en", 2) == "a blue seven with a red three on its left"
    assert caption(STACKED, "en", 3, from_second=True) == "bottom: a blue seven, top: a red three"
    assert caption(BESIDE, "zh", 0) == "一个红色的三在一个蓝色的七的左边"
    assert caption(STACKED, "zh", 2, from_second=True) == "一个红色的三，它的下面是一个蓝色的七"


def test_captions_begin_more_often_with_the_first_thing():
    weights = captions(BESIDE)
    assert weights[caption(BESIDE, "en", 1)] == 1 - FROM_SECOND > weights[caption(BESIDE, "en", 1, True)] == FROM_SECOND
    first, second = caption(BESIDE, "en", 0), caption(BESIDE, "en", 0, from_second=True)
    begun = [text.split(" . ")[0] for text in documents([BESIDE], 2000, num_forms=1)]
    assert abs(begun.count(second) / (begun.count(first) + begun.count(second)) - FROM_SECOND) < 0.05


def test_questions():
    assert question(BESIDE, "en", False) == ("left :", "red three")
    assert question(STACKED, "zh", True) == ("下面 :", "蓝色的七")


def test_captions_of_different_scenes_differ():
    assert len(FORMS["en"]) == len(FORMS["zh"]) == NUM_FORMS
    scenes = [scene for scenes in divide(8, 0.2, seed=0).scenes.values() for scene in scenes]
    said = [text for scene in scenes for text in captions(scene)]
    assert len(set(said)) == len(said) == len(scenes) * len(LANGUAGES) * NUM_FORMS * 2


def test_text_has_no_pair_that_training_shall_not_see():
    division = divide(20, 0.2, seed=0)
    texts = list(documents(division.scenes["seen"], 2000))
    assert texts == list(documents(division.scenes["seen"], 2000)) and len(set(texts)) > 1900
    text = "\n".join(texts)
    for thing in division.unseen:
        english = rf"\b{thing.colour} {NUMBERS['en'][thing.digit]}\b"
        assert not re.search(english, text)
        assert f"{COLOUR_WORDS['zh'][thing.colour]}的{NUMBERS['zh'][thing.digit]}" not in text
    seen = division.scenes["seen"][0].first
    assert f"{seen.colour} {NUMBERS['en'][seen.digit]}" in text


@pytest.mark.parametrize("form", range(NUM_FORMS))
def test_fewer_forms(form):
    said = set(captions(BESIDE, num_forms=form + 1))
    assert len(said) == 4 * (form + 1) and caption(BESIDE, "zh", form) in said
