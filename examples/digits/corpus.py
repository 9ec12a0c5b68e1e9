"""The texts of the quickstart: captions in two languages, and a corpus in which number words have a meaning.

The base language model learns from the corpus; it must carry a number's identity from the word that names it to
later positions, because the frozen text expert is all that the visual expert can read a caption through. Hence the
sentences that repeat or translate the number of a caption.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

ENGLISH = "zero one two three four five six seven eight nine".split()
CHINESE = list("零一二三四五六七八九")
WORDS = {"en": ENGLISH, "zh": CHINESE}
FIGURES = [str(digit) for digit in range(10)]
# Some name the number first: there the end of the image alone decides, which teaches the visual expert to read.
TEMPLATES = {
    "en": [
        "a handwritten digit {}",
        "a picture of the digit {}",
        "the number {} by hand",
        "{} written by hand",
        "{} as a handwritten digit",
        "{} in a small picture",
    ],
    "zh": [
        "一个手写数字{}",
        "数字{}的图片",
        "手写的数字{}",
        "{}的手写图像",
        "{}这个数字的图片",
        "{}是手写的",
    ],
}
HELD_OUT_SHARE = 0.1
SENTENCES = 6  # of a document


@dataclass(frozen=True)
class Fact:
    """A sentence with one right ending: the prompt, and the answer that completes it."""

    kind: str
    prompt: str
    answer: str


def captions(digit: int) -> list[str]:
    """Every caption of a digit, both languages."""
    return [template.format(WORDS[language][digit]) for language in TEMPLATES for template in TEMPLATES[language]]


def facts() -> list[Fact]:
    """Arithmetic, comparison, counting, neighbours and translation, in English and Chinese."""
    return _arithmetic() + _comparison() + _counting() + _neighbours() + _translation()


def split_facts(seed: int = 0) -> tuple[list[Fact], list[Fact]]:
    """(training, held-out) facts; the same share of every kind is held out."""
    rng = random.Random(seed)
    training: list[Fact] = []
    held_out: list[Fact] = []
    everything = facts()
    for kind in sorted({fact.kind for fact in everything}):
        members = [fact for fact in everything if fact.kind == kind]
        rng.shuffle(members)
        count = max(1, round(HELD_OUT_SHARE * len(members)))
        held_out += members[:count]
        training += members[count:]
    return training, held_out


def documents(count: int, seed: int = 0) -> list[str]:
    """Text documents for the base language model: facts, captions, and captions with their number said again.

    A document has several sentences: in captioning the text follows an image, farther from its beginning than any
    one sentence is long, and a frozen language model must have seen such distances.
    """
    training, _ = split_facts()
    rng = random.Random(seed)
    return [" / ".join(_sentence(rng, training) for _ in range(SENTENCES)) for _ in range(count)]


def _sentence(rng: random.Random, training: list[Fact]) -> str:
    kind = rng.random()
    digit = rng.randrange(10)
    caption = rng.choice(captions(digit))
    if kind < 0.45:
        fact = rng.choice(training)
        return fact.prompt + fact.answer
    if kind < 0.50:
        return caption
    if kind < 0.62:
        return f"{caption} . {_says(rng, digit)}"
    if kind < 0.77:
        return f"{rng.choice((ENGLISH, CHINESE, FIGURES))[digit]} : {caption}"
    if kind < 0.93:
        return f"{caption} . {rng.choice(captions(digit))}"
    numbers = [rng.randrange(10) for _ in range(rng.randrange(2, 5))]
    source, target = rng.choice((ENGLISH, CHINESE)), rng.choice((ENGLISH, CHINESE))
    return " ".join(source[n] for n in numbers) + " : " + " ".join(target[n] for n in numbers)


def _says(rng: random.Random, digit: int) -> str:
    """A sentence about the number that was named before."""
    english, chinese = ENGLISH[digit], CHINESE[digit]
    return rng.choice(
        [
            f"the number is {english}",
            f"it shows {english}",
            f"answer : {english}",
            f"in chinese {chinese}",
            f"数字是{chinese}",
            f"写的是{chinese}",
            f"答 : {chinese}",
            f"英文是 {english}",
        ]
    )


def _arithmetic() -> list[Fact]:
    result = []
    for a in range(10):
        for b in range(10):
            for english, chinese, value in (("plus", "加", a + b), ("minus", "减", a - b)):
                if 0 <= value <= 9:
                    result.append(Fact("arithmetic", f"{ENGLISH[a]} {english} {ENGLISH[b]} is ", ENGLISH[value]))
                    result.append(Fact("arithmetic", f"{CHINESE[a]}{chinese}{CHINESE[b]}等于", CHINESE[value]))
    return result


def _comparison() -> list[Fact]:
    result = []
    for a in range(10):
        for b in range(10):
            if a != b:
                more = a > b
                result.append(
                    Fact("comparison", f"{ENGLISH[a]} compared with {ENGLISH[b]} is ", "more" if more else "less")
                )
                result.append(Fact("comparison", f"{CHINESE[a]}比{CHINESE[b]}", "大" if more else "小"))
    return result


def _counting() -> list[Fact]:
    result = []
    for length in range(3, 6):
        for first in range(10 - length + 1):
            run = range(first, first + length)
            english, chinese = [ENGLISH[n] for n in run], [CHINESE[n] for n in run]
            result.append(Fact("counting", "count " + " ".join(english[:-1]) + " ", english[-1]))
            result.append(Fact("counting", "数" + "".join(chinese[:-1]), chinese[-1]))
            backwards = english[::-1]
            result.append(Fact("counting", "back " + " ".join(backwards[:-1]) + " ", backwards[-1]))
    return result


def _neighbours() -> list[Fact]:
    result = []
    for a in range(9):
        result.append(Fact("neighbour", f"after {ENGLISH[a]} comes ", ENGLISH[a + 1]))
        result.append(Fact("neighbour", f"{CHINESE[a]}后面是", CHINESE[a + 1]))
        result.append(Fact("neighbour", f"before {ENGLISH[a + 1]} comes ", ENGLISH[a]))
        result.append(Fact("neighbour", f"{CHINESE[a + 1]}前面是", CHINESE[a]))
    return result


def _translation() -> list[Fact]:
    forms = (
        (ENGLISH, CHINESE, "in chinese {} is "),
        (CHINESE, ENGLISH, "{}的英文是 "),
        (ENGLISH, CHINESE, "{} = "),
        (CHINESE, ENGLISH, "{} = "),
        (ENGLISH, FIGURES, "{} is written "),
        (CHINESE, FIGURES, "{}写作"),
        (FIGURES, ENGLISH, "{} is called "),
        (FIGURES, CHINESE, "{}读作"),
    )
    return [
        Fact("translation", form.format(source[digit]), target[digit])
        for digit in range(10)
        for source, target, form in forms
    ]
