"""English and Chinese sentences about the numbers zero to nine: captions of digit pictures, and a corpus from
which a small language model learns what a number word means.

Everything is a pure function of its arguments and seeds.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

LANGUAGES = ("en", "zh")
NUMBER_WORDS = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "zh": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九"),
}
_NUMERALS = tuple("0123456789")

CAPTION_TEMPLATES = {
    "en": (
        "a handwritten digit {}",
        "a drawing of the number {}",
        "a picture of the digit {}",
        "the number {} written by hand",
        "a small grey image showing {}",
        "handwritten number {}",
        "this picture shows the digit {}",
        "someone wrote the number {} here",
    ),
    "zh": (
        "一个手写数字{}",
        "数字{}的图片",
        "手写的数字{}",
        "这是数字{}",
        "图中写着{}",
        "数字{}的手写图像",
        "图片里的数字是{}",
        "有人写了数字{}",
    ),
}

# What may follow a caption, and needs the number that it names: {0} in English, {1} in Chinese.
_FOLLOW_UPS = (
    "the number is {0}",
    "it shows {0}",
    "answer : {0}",
    "in chinese {1}",
    "数字是{1}",
    "写的是{1}",
    "答 : {1}",
    "英文是 {0}",
)

# Kinds of documents and their shares. All but facts and lone captions carry one number from one place to a
# later one, so the model must keep at a number word which number it is.
_DOCUMENT_SHARES = {
    "fact": 0.45,
    "caption": 0.05,
    "caption_then_follow_up": 0.12,
    "number_then_caption": 0.15,
    "caption_then_caption": 0.16,
    "copy": 0.07,
}


@dataclass(frozen=True)
class Fact:
    """A statement whose end follows from its beginning.

    Args:
        kind: arithmetic, comparison, counting, translation or successor.
        prompt: Its beginning.
        answer: Its end.
    """

    kind: str
    prompt: str
    answer: str


def captions(digit: int, language: str) -> list[str]:
    """Every caption of a digit in one of LANGUAGES."""
    return [template.format(NUMBER_WORDS[language][digit]) for template in CAPTION_TEMPLATES[language]]


def all_captions(digit: int) -> list[str]:
    """Every caption of a digit, English first and Chinese at every other place."""
    pairs = zip(captions(digit, "en"), captions(digit, "zh"), strict=True)
    return [caption for pair in pairs for caption in pair]


def digit_of(caption: str) -> int | None:
    """The digit that a caption names; None where the text is not a caption of exactly one.

    White space at the ends and letter case are ignored.
    """
    return _DIGIT_OF_CAPTION.get(caption.strip().lower())


_DIGIT_OF_CAPTION = {caption: digit for digit in range(10) for caption in all_captions(digit)}


def _arithmetic() -> list[Fact]:
    en, zh = NUMBER_WORDS["en"], NUMBER_WORDS["zh"]
    facts = []
    for a in range(10):
        for b in range(10):
            for name, zh_name, result in (("plus", "加", a + b), ("minus", "减", a - b)):
                if 0 <= result <= 9:
                    facts.append(Fact("arithmetic", f"{en[a]} {name} {en[b]} is ", en[result]))
                    facts.append(Fact("arithmetic", f"{zh[a]}{zh_name}{zh[b]}等于", zh[result]))
            if a != b:
                more = a > b
                prompt = f"{en[a]} compared with {en[b]} is "
                facts.append(Fact("comparison", prompt, "more" if more else "less"))
                facts.append(Fact("comparison", f"{zh[a]}比{zh[b]}", "大" if more else "小"))
    return facts


def _counting() -> list[Fact]:
    en, zh = NUMBER_WORDS["en"], NUMBER_WORDS["zh"]
    facts = []
    for length in (3, 4, 5):
        for first in range(11 - length):
            last = first + length - 1
            facts.append(Fact("counting", f"count {' '.join(en[first:last])} ", en[last]))
            facts.append(Fact("counting", f"数{''.join(zh[first:last])}", zh[last]))
            down = " ".join(en[number] for number in range(last, first, -1))
            facts.append(Fact("counting", f"back {down} ", en[first]))
    for a, b in zip(range(9), range(1, 10), strict=True):
        facts.append(Fact("successor", f"after {en[a]} comes ", en[b]))
        facts.append(Fact("successor", f"{zh[a]}后面是", zh[b]))
        facts.append(Fact("successor", f"before {en[b]} comes ", en[a]))
        facts.append(Fact("successor", f"{zh[b]}前面是", zh[a]))
    return facts


def _translation() -> list[Fact]:
    en, zh = NUMBER_WORDS["en"], NUMBER_WORDS["zh"]
    rules = (
        ("in chinese {} is ", en, zh),
        ("{}的英文是 ", zh, en),
        ("{} = ", en, zh),
        ("{} = ", zh, en),
        ("{} is written ", en, _NUMERALS),
        ("{}写作", zh, _NUMERALS),
        ("{} is called ", _NUMERALS, en),
        ("{}读作", _NUMERALS, zh),
    )
    return [
        Fact("translation", template.format(source[digit]), target[digit])
        for template, source, target in rules
        for digit in range(10)
    ]


def split_facts(held_out_fraction: float = 0.1, seed: int = 0) -> tuple[list[Fact], list[Fact]]:
    """All facts as (for training, held out), the same share (at least one) of every kind held out."""
    by_kind: dict[str, list[Fact]] = defaultdict(list)
    for fact in _arithmetic() + _counting() + _translation():
        by_kind[fact.kind].append(fact)
    rng = random.Random(seed)
    train, held_out = [], []
    for kind in sorted(by_kind):
        facts = by_kind[kind]
        rng.shuffle(facts)
        count = max(1, round(held_out_fraction * len(facts)))
        held_out += facts[:count]
        train += facts[count:]
    return train, held_out


def _document(rng: random.Random, facts: list[Fact]) -> str:
    kind = rng.choices(list(_DOCUMENT_SHARES), list(_DOCUMENT_SHARES.values()))[0]
    if kind == "fact":
        fact = rng.choice(facts)
        return fact.prompt + fact.answer
    if kind == "copy":
        digits = [rng.randrange(10) for _ in range(rng.randrange(2, 5))]
        words = [NUMBER_WORDS[rng.choice(LANGUAGES)] for _ in range(2)]
        return " : ".join(" ".join(names[digit] for digit in digits) for names in words)
    digit = rng.randrange(10)
    choices = all_captions(digit)
    caption = rng.choice(choices)
    if kind == "caption":
        return caption
    if kind == "caption_then_follow_up":
        en, zh = NUMBER_WORDS["en"][digit], NUMBER_WORDS["zh"][digit]
        return f"{caption} . {rng.choice(_FOLLOW_UPS).format(en, zh)}"
    if kind == "number_then_caption":
        names = (NUMBER_WORDS["en"][digit], NUMBER_WORDS["zh"][digit], _NUMERALS[digit])
        return f"{rng.choice(names)} : {caption}"
    assert kind == "caption_then_caption", kind
    return f"{caption} . {rng.choice(choices)}"


def corpus(num_documents: int, seed: int = 0) -> list[str]:
    """Generated documents, none of which states a held-out fact (of split_facts with its defaults)."""
    facts, _ = split_facts()
    rng = random.Random(seed)
    return [_document(rng, facts) for _ in range(num_documents)]


def tokenizer_symbols() -> list[str]:
    """Number words as SentencePiece symbols, so that each is one token (▁ marks the start of a word)."""
    return [f"▁{word}" for word in NUMBER_WORDS["en"]] + list(NUMBER_WORDS["zh"])
