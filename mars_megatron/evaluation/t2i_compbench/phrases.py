"""What a prompt names: noun phrases, relations between two objects, and counted objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec

_MODEL = "en_core_web_sm"
_DETERMINERS = frozenset(
    "a an the this that these those its their his her my your our some any each every another "
    "one two three four five six seven eight nine ten many several".split()
)
_NUMBERS = {word: number for number, word in enumerate("one two three four five six seven eight nine ten".split(), 1)}
# Where a noun phrase ends: conjunctions, prepositions, pronouns, and the verbs that prompts of this kind use most.
_ENDS = frozenset(
    """
    and or but while as with without of in on at to from by for near next behind above below under over between beside
    into onto through along alongside across around against inside outside toward towards up down off out than like
    is are was were be been being has have had do does it they he she them him which who that's there
    sits sit sat stands stand stood lies lie lay lying holds hold held holding rests rest resting hangs hang hung
    features feature contrasted contrasts reads read parked standing sitting hidden nestled suspended leaning balanced
    """.split()
)
# Places, not things: "on the left of".
_PLACES = frozenset("left right top bottom side front back".split())
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "mice": "mouse",
    "knives": "knife",
    "leaves": "leaf",
    "geese": "goose",
}
_WORD = re.compile(r"\w[\w'-]*|[^\w\s]")


def phrase_finder() -> tuple[str, Callable[[str], list[str]]]:
    """A name, and a function that gives the noun phrases of a text in order.

    The benchmark takes them from spaCy's en_core_web_sm, and so does this where both are installed. Else rules find
    them: exact for prompts like "a red cup and a blue dog", rough for whole sentences, whose verbs they hardly know.
    """
    if find_spec("spacy") is None or find_spec(_MODEL) is None:
        return "rules", rule_phrases
    import spacy

    parse = spacy.load(_MODEL)
    return "spacy", lambda text: [chunk.text for chunk in parse(text).noun_chunks]


def rule_phrases(text: str) -> list[str]:
    """Noun phrases by rules: runs of words between function words, each beginning anew at a determiner."""
    runs: list[list[str]] = [[]]
    for word in _WORD.findall(text):
        lower = word.lower()
        if lower in _ENDS or not word[0].isalnum():
            runs.append([])
        elif lower in _DETERMINERS:
            runs.append([word])
        else:
            runs[-1].append(word)
    return [" ".join(run) for run in runs if not {word.lower() for word in run} <= _DETERMINERS | _PLACES]


def object_name(phrase: str) -> str:
    """A noun phrase without its determiner, in lower case."""
    words = phrase.lower().split()
    while len(words) > 1 and words[0] in _DETERMINERS:
        words.pop(0)
    return " ".join(words)


def find_relation(text: str, relations: tuple[str, ...]) -> tuple[str, str, str] | None:
    """(first object, relation, second object) of the first of the relations that the text has; None without one.

    Args:
        text: Such as "a dog on the left of a cup".
        relations: Longer ones in front of those that they contain.
    """
    for relation in relations:
        before, found, after = text.lower().partition(f" {relation} ")
        first, second = rule_phrases(before), rule_phrases(after)
        if found and first and second:
            return object_name(first[-1]), relation, object_name(second[0])
    return None


def find_counts(text: str) -> list[tuple[str, int]]:
    """(object, number) of everything that the text counts: "two dogs and a cup" -> [("dog", 2), ("cup", 1)]."""
    counts = []
    for phrase in rule_phrases(text):
        words = phrase.lower().split()
        number = _NUMBERS.get(words[0], 1 if words[0] in ("a", "an") else 0)
        if number and len(words) > 1:
            # of "four red cups stood" the counted word is the plural; without one it is that behind the number
            noun = next((word for word in words[1:] if number > 1 and singular(word) != word), words[1])
            counts.append((singular(noun), number))
    return counts


def singular(noun: str) -> str:
    """The singular of an English noun, by rule; what does not look like a plural stays."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return f"{noun[:-3]}y"
    if re.search("(ch|sh|ss|x|[^h]o|bus)es$", noun):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) else noun
