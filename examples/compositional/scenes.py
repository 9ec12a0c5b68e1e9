"""The scenes of a canvas, and those that are held out from training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
# Each with its opposite: what the second thing is to the first.
RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HORIZONTAL = ("left of", "right of")
SPLITS = ("seen", "unseen_combinations", "unseen_pairs")
NUM_PAIRS = 10 * len(COLOURS)


@dataclass(frozen=True, order=True)
class Thing:
    """A digit in a colour.

    Args:
        digit: 0 to 9.
        colour: A key of COLOURS.
    """

    digit: int
    colour: str


@dataclass(frozen=True, order=True)
class Scene:
    """Two things, the first left of or above the second.

    Args:
        first: The left or upper thing.
        relation: "left of" or "above".
        second: The right or lower thing.
    """

    first: Thing
    relation: str
    second: Thing

    def __post_init__(self) -> None:
        assert self.relation in ("left of", "above"), self.relation

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: It is of another form.
        """
        try:
            things = [Thing(values[name]["digit"], values[name]["colour"]) for name in ("first", "second")]
            scene = (things[0], values["relation"], things[1])
        except (KeyError, TypeError) as error:
            raise ValueError(f"scene {values!r} has no first, relation and second with digit and colour") from error
        known = all(thing.digit in range(10) and thing.colour in COLOURS for thing in things)
        if not known or scene[1] not in ("left of", "above"):
            raise ValueError(
                f"scene {values!r}: digits are 0 to 9, colours {', '.join(COLOURS)}, relations left of and above"
            )
        return cls(*scene)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        first, second = ({"digit": thing.digit, "colour": thing.colour} for thing in (self.first, self.second))
        return {"first": first, "relation": self.relation, "second": second}


@dataclass(frozen=True)
class Division:
    """Every possible scene that is used, by split.

    Attributes:
        unseen: The (digit, colour) pairs that training never sees.
        scenes: Of each of SPLITS, sorted. In `unseen_combinations` both pairs are seen, but never together in this
            relation; in `unseen_pairs` neither is seen.
    """

    unseen: tuple[Thing, ...]
    scenes: dict[str, list[Scene]]


def divide(unseen_pairs: int, unseen_share: float, seed: int) -> Division:
    """Divide all scenes of two things with different digits and different colours.

    Args:
        unseen_pairs: (digit, colour) pairs that training never sees, of NUM_PAIRS, in as different digits and
            colours as possible; at least 2.
        unseen_share: Share of the combinations of seen pairs that training never sees.
        seed: Seed of the division.
    """
    assert 2 <= unseen_pairs <= NUM_PAIRS // 2 and 0 < unseen_share < 1
    rng = random.Random(seed)
    digits, colours = list(range(10)), list(COLOURS)
    rng.shuffle(digits)
    rng.shuffle(colours)
    # The second round of digits goes on one colour further, so that no pair comes twice.
    unseen = {Thing(digits[k % 10], colours[(k + k // 10) % len(colours)]) for k in range(unseen_pairs)}
    assert len(unseen) == unseen_pairs
    things = [Thing(digit, colour) for digit in range(10) for colour in COLOURS]
    scenes: dict[str, list[Scene]] = {name: [] for name in SPLITS}
    for first in things:
        for second in things:
            if first.digit == second.digit or first.colour == second.colour:
                continue
            for relation in ("left of", "above"):
                num_unseen = (first in unseen) + (second in unseen)
                if num_unseen == 0:
                    name = "unseen_combinations" if rng.random() < unseen_share else "seen"
                    scenes[name].append(Scene(first, relation, second))
                elif num_unseen == 2:
                    scenes["unseen_pairs"].append(Scene(first, relation, second))
    return Division(tuple(sorted(unseen)), scenes)
