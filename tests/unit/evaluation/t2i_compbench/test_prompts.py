"""Prompt files, and what is found in prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mars_megatron.evaluation.t2i_compbench.detection import DEPTH_RELATIONS, RELATIONS
from mars_megatron.evaluation.t2i_compbench.phrases import find_counts, find_relation, rule_phrases, singular
from mars_megatron.evaluation.t2i_compbench.prompt_files import read_prompt_file


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("color_val", "color"),
        ("texture_val_unseen", "texture"),
        ("spatial_train", "spatial"),
        ("3d_spatial", "3d_spatial"),
        ("non_spatial_val", "non_spatial"),
        ("numeracy", "numeracy"),
    ],
)
def test_category_is_that_of_the_name(name: str, category: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.txt"
    file.write_text("\ufeffa red cup and a blue dog\t3\n\n  a dog next to a cup \r\n", encoding="utf-8")
    read = read_prompt_file(file)
    assert read.category == category
    assert read.prompts == ["a red cup and a blue dog", "a dog next to a cup"]
    assert read.first(1).prompts == ["a red cup and a blue dog"] and len(read.first(0).prompts) == 2


def test_complex_prompts_are_scored_in_the_ways_that_the_lists_say(tmp_path: Path) -> None:
    (tmp_path / "complex_val.txt").write_text("The red cup was near the dog.\nThe dog ran home.\nThe old cat slept.\n")
    (tmp_path / "complex_val_spatial.txt").write_text("The red cup was near the dog.\n")
    (tmp_path / "complex_val_action.txt").write_text("the dog ran home\n")
    read = read_prompt_file(tmp_path / "complex_val.txt")
    assert read.parts == [("attributes", "spatial"), ("attributes", "whole"), ("attributes", "spatial", "whole")]


def test_files_that_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    with pytest.raises(ValueError, match="mine.txt is not a file"):
        read_prompt_file(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_prompt_file(file)
    file.write_text("a dog\n")
    with pytest.raises(ValueError, match="not named after a category .*color_val.txt.*give category"):
        read_prompt_file(file)
    with pytest.raises(ValueError, match="category is 'colour'; accepted: color, shape"):
        read_prompt_file(file, "colour")
    assert read_prompt_file(file, "color").parts == [("attributes",)]
    assert read_prompt_file(file, own_scorer=True).category == "unknown"


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a red cup and a blue dog", ["a red cup", "a blue dog"]),
        ("rubber boots and a cell phone", ["rubber boots", "a cell phone"]),
        ("The round clock is on the left of the wooden shelf.", ["The round clock", "the wooden shelf"]),
        ("A man in a grey coat, near his dog", ["A man", "a grey coat", "his dog"]),
        ("two cats", ["two cats"]),
        ("is it on the left?", []),
    ],
)
def test_noun_phrases(text: str, phrases: list[str]) -> None:
    assert rule_phrases(text) == phrases


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a dog on the left of a cup", ("dog", "on the left of", "cup")),
        ("a sheep next to a cell phone", ("sheep", "next to", "cell phone")),
        ("The red hat was on top of the brown rack.", ("red hat", "on top of", "brown rack")),
        ("a dog inside a cup", None),
    ],
)
def test_relations(text: str, found: tuple[str, str, str] | None) -> None:
    assert find_relation(text, RELATIONS) == found


def test_relations_in_depth() -> None:
    assert find_relation("a cup hidden by a dog", DEPTH_RELATIONS) == ("cup", "hidden by", "dog")


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("two dogs", [("dog", 2)]),
        ("four ships sailed past, and a sheep", [("ship", 4), ("sheep", 1)]),
        ("three red knives, one cup and five fish", [("knife", 3), ("cup", 1), ("fish", 5)]),
        ("dogs", []),
    ],
)
def test_counts(text: str, counts: list[tuple[str, int]]) -> None:
    assert find_counts(text) == counts


def test_singulars() -> None:
    plurals = "cups peaches tomatoes butterflies mice women couches glasses buses vases toys sheep bus"
    assert [singular(word) for word in plurals.split()] == (
        "cup peach tomato butterfly mouse woman couch glass bus vase toy sheep bus".split()
    )
