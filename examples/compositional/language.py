"""Captions of a scene, in English and Chinese."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from examples.compositional.scenes import COLOURS, RELATIONS, Scene, Thing

LANGUAGES = ("en", "zh")
NUMBERS = {
    "en": "zero one two three four five six seven eight nine".split(),
    "zh": list("零一二三四五六七八九"),
}
COLOUR_WORDS = {
    "en": {name: name for name in COLOURS},
    "zh": {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色"},
}
SIDE_WORDS = {
    "en": {"left of": "left", "right of": "right", "above": "top", "below": "bottom"},
    "zh": {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"},
}
# {a}: the subject, {b}: what it is seen from, {r}: how a lies to b, {s} and {o}: the sides where a and b lie.
FORMS = {
    "en": [
        "a {a} {r} a {b}",
        "the {a} is {r} the {b}",
        "a {b} with a {a} {on}",
        "{s}: a {a}, {o}: a {b}",
    ],
    "zh": [
        "一个{a}在一个{b}的{s}",
        "{a}在{b}{s}",
        "一个{b}，它的{s}是一个{a}",
        "{s}：{a}，{o}：{b}",
    ],
}
NUM_FORMS = len(FORMS["en"])
# Share of the captions that name the second thing first. With a half, as prompts have it, neither the place in the
# sentence nor the relation tells anything alone of what stands where.
FROM_SECOND = 0.25
TRANSLATIONS = 0.1  # share of the documents
QUESTIONS = 3  # behind a caption of a document
_ON = {"left of": "on its left", "right of": "on its right", "above": "above it", "below": "below it"}


def name_of(thing: Thing, language: str) -> str:
    """ "red three", "红色的三"."""
    colour, number = COLOUR_WORDS[language][thing.colour], NUMBERS[language][thing.digit]
    return f"{colour} {number}" if language == "en" else f"{colour}的{number}"


def caption(scene: Scene, language: str, form: int, from_second: bool = False) -> str:
    """One caption.

    Args:
        scene: What is described.
        language: One of LANGUAGES.
        form: Index into FORMS.
        from_second: Say how the second thing lies to the first, not the first to the second.
    """
    subject, relation, other = scene.first, scene.relation, scene.second
    if from_second:
        subject, relation, other = other, RELATIONS[relation], subject
    sides = SIDE_WORDS[language]
    return FORMS[language][form].format(
        a=name_of(subject, language),
        b=name_of(other, language),
        r=relation,
        s=sides[relation],
        o=sides[RELATIONS[relation]],
        on=_ON[relation],
    )


def captions(scene: Scene, num_forms: int = NUM_FORMS) -> dict[str, float]:
    """Every caption of a scene, in both languages and both ways round, and its weight in training."""
    return {
        caption(scene, language, form, from_second): FROM_SECOND if from_second else 1.0 - FROM_SECOND
        for language in LANGUAGES
        for form in range(num_forms)
        for from_second in (False, True)
    }


def symbols() -> list[str]:
    """What shall be one piece each to a text tokenizer ("▁" stands for the space before a word)."""
    english = [*NUMBERS["en"], *COLOURS, *SIDE_WORDS["en"].values(), "above", "below"]
    chinese = [*NUMBERS["zh"], *(word[0] for word in COLOUR_WORDS["zh"].values()), *"左右上下"]
    return [*(f"▁{word}" for word in english), *chinese]


def documents(scenes: Sequence[Scene], count: int, num_forms: int = NUM_FORMS, seed: int = 0) -> Iterator[str]:
    """Text for the base language model, in which colours, numbers and sides have a meaning.

    Captions, each with answers to questions of what is where, so that they must be understood; and translations.
    """
    rng = random.Random(seed)
    for _ in range(count):
        scene = rng.choice(scenes)
        if rng.random() < TRANSLATIONS:
            yield _translation(rng, scene)
        else:
            weights = captions(scene, num_forms)
            said = rng.choices(list(weights), list(weights.values()))
            for _ in range(QUESTIONS):
                said.append(" ".join(question(scene, rng.choice(LANGUAGES), rng.random() < 0.5)))
            yield " . ".join(said)


def question(scene: Scene, language: str, about_second: bool) -> tuple[str, str]:
    """What stands after a caption in the documents: "left :" and its answer "red three"."""
    relation = RELATIONS[scene.relation] if about_second else scene.relation
    thing = scene.second if about_second else scene.first
    return f"{SIDE_WORDS[language][relation]} :", name_of(thing, language)


def _translation(rng: random.Random, scene: Scene) -> str:
    """Words of one language and the same in the other, or again."""
    source, target = rng.choice(LANGUAGES), rng.choice(LANGUAGES)
    if rng.random() < 0.5:
        things = (scene.first, scene.second)
        return ", ".join(name_of(t, source) for t in things) + " = " + ", ".join(name_of(t, target) for t in things)
    words = rng.choice([NUMBERS, _listed(COLOUR_WORDS), _listed(SIDE_WORDS)])
    chosen = [rng.randrange(len(words[source])) for _ in range(rng.randint(1, 4))]
    return " ".join(words[source][k] for k in chosen) + " = " + " ".join(words[target][k] for k in chosen)


def _listed(words: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Words by language, the same meanings in the same order."""
    return {language: list(of_language.values()) for language, of_language in words.items()}
