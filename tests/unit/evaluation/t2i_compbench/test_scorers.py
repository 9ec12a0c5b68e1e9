"""The benchmark's ways to score, with tiny random models and given boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import BlipForQuestionAnswering, BlipProcessor

from mars_megatron import platform
from mars_megatron.evaluation.t2i_compbench.detection import (
    CountScorer,
    DepthScorer,
    Detector,
    Found,
    SpatialScorer,
    depth_score,
    intersection_over_union,
    known_name,
    relation_score,
)
from mars_megatron.evaluation.t2i_compbench.vqa import AttributeScorer
from tests.support.tiny_judges import (
    SIDE,
    write_blip,
    write_clip,
    write_depth,
    write_detector,
    write_open_detector,
    write_vilt,
)

CPU = torch.device("cpu")
LEFT, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.7, 0.4, 0.9, 0.6)
TOP, BOTTOM = (0.4, 0.0, 0.6, 0.2), (0.4, 0.7, 0.6, 0.9)


def images(count: int) -> torch.Tensor:
    shape = (count, SIDE, SIDE, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    platform.initialize("auto")
    return tmp_path_factory.mktemp("models")


def test_attributes_are_the_product_over_the_noun_phrases(folder: Path) -> None:
    path = write_blip(folder / "blip")
    prompts = ["a red square and a blue circle", "green cup", "and"]  # questions of two lengths
    scores = AttributeScorer(str(path), CPU, batch_size=4)(images(3), prompts)

    model, processor = BlipForQuestionAnswering.from_pretrained(path).eval(), BlipProcessor.from_pretrained(path)
    yes, no = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])

    def probability(image: torch.Tensor, question: str) -> float:
        inputs = processor(images=[image.numpy()], text=[question], return_tensors="pt")
        found = model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
        return found.logits[0][0, [yes, no]].softmax(dim=0)[0].item()

    first, second, _ = images(3)
    expected = probability(first, "a red square?") * probability(first, "a blue circle?")
    assert scores == pytest.approx([expected, probability(second, "green cup?"), 1.0], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)
    scorer = AttributeScorer(str(path), CPU, batch_size=2)
    assert scorer.notes(prompts) == {"noun_phrases": "rules", "num_prompts_without_noun_phrase": 1}


def test_a_model_that_answers_no_questions(folder: Path) -> None:
    with pytest.raises(ValueError, match="vqa is .*clip, which AutoModelForVisualQuestionAnswering cannot open"):
        AttributeScorer(str(write_clip(folder / "clip")), CPU, 2)


@pytest.mark.parametrize(
    ("relation", "first", "second", "score"),
    [
        ("on the left of", LEFT, RIGHT, 1.0),
        ("on the left of", RIGHT, LEFT, 0.0),
        ("on the right of", RIGHT, LEFT, 1.0),
        ("on the top of", TOP, BOTTOM, 1.0),
        ("on top of", BOTTOM, TOP, 0.0),
        ("on the bottom of", BOTTOM, TOP, 1.0),
        ("on the left of", TOP, BOTTOM, 0.0),  # apart, but the other way
        ("next to", LEFT, RIGHT, 1.0),  # on one height
        ("near", (0.0, 0.0, 0.1, 0.1), (0.9, 0.9, 1.0, 1.0), 150 / 480 / 0.9),
        ("on the left of", (0.0, 0.0, 0.5, 0.5), (0.1, 0.0, 0.6, 0.5), 0.1 / (0.2 / 0.3)),  # they overlap
    ],
)
def test_relations_of_boxes(relation: str, first: tuple, second: tuple, score: float) -> None:
    assert relation_score(relation, first, second) == pytest.approx(score)


def test_relations_in_depth() -> None:
    nearness = torch.zeros(10, 10)
    nearness[:, :5] = 1.0  # the left half is near
    near, far = (0.0, 0.0, 0.6, 1.0), (0.4, 0.0, 1.0, 1.0)
    overlap = intersection_over_union(near, far) / 0.5
    assert depth_score("in front of", near, far, nearness) == pytest.approx(overlap)
    assert depth_score("behind", near, far, nearness) == 0.0
    assert depth_score("hidden by", far, near, nearness) == pytest.approx(overlap)
    assert depth_score("in front of", (0.0, 0.0, 0.3, 1.0), (0.8, 0.0, 1.0, 1.0), nearness) == 0.0  # no overlap


class Boxes:
    """A detector that has seen everything before."""

    def __init__(self, *found: Sequence[Found]) -> None:
        self.found = list(found)

    def class_of(self, name: str) -> str | None:
        return None if name == "unicorn" else name

    def __call__(self, images: torch.Tensor, wanted: Sequence[Sequence[str]]) -> list[Sequence[Found]]:
        return [
            [one for one in of_image if one.name in names] for of_image, names in zip(self.found, wanted, strict=True)
        ]


def test_spatial_scores() -> None:
    dog, cup = Found("dog", 0.8, LEFT), Found("cup", 0.6, RIGHT)
    other_cup = Found("cup", 0.5, LEFT)
    asked = {
        "a dog on the left of a cup": (dog, cup),
        "a dog on the right of a cup": (dog, cup),  # seen, but elsewhere: below 0.5
        "a dog next to a cup": (dog,),
        "a cup on the right of a cup": (cup, other_cup),
        "a dog inside a cup": (dog, cup),
        "a unicorn near a cup": (cup,),
    }
    scorer = SpatialScorer(Boxes(*asked.values()))
    assert scorer(images(6), list(asked)) == pytest.approx([0.2 + 0.15 + 0.5, 0.0, 0.0, 0.15 + 0.125 + 0.5, 0.0, 0.0])
    assert scorer.notes(list(asked)) == {"num_prompts_without_relation": 1, "objects_without_class": ["unicorn"]}


def test_counts() -> None:
    dogs = [Found("dog", 0.9, LEFT), Found("dog", 0.8, RIGHT), Found("dog", 0.7, LEFT)]  # the third is the first again
    asked = {"two dogs": dogs, "three dogs": dogs, "two dogs and a cup": dogs, "one cup": [], "dogs": dogs}
    assert CountScorer(Boxes(*asked.values()))(images(5), list(asked)) == [1.0, 0.5, 0.5, 0.0, 0.0]


def test_detector_finds_what_it_has_classes_for(folder: Path) -> None:
    path = write_detector(folder / "yolos")
    detector = Detector(str(path), CPU, threshold=0.0)
    found = detector(images(3), [["dog", "cup", "boy"], ["unicorn"], []])
    assert {one.name for one in found[0]} <= {"dog", "cup", "boy"} and len(found[0]) == 4  # detection tokens
    assert found[1] == found[2] == []
    scores = [one.score for one in found[0]]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    assert all(math.isfinite(edge) for one in found[0] for edge in one.box)
    assert not any(Detector(str(path), CPU, 0.99)(images(1), [["dog", "cup", "boy"]]))


def test_open_detector_looks_for_words(folder: Path) -> None:
    detector = Detector(str(write_open_detector(folder / "owl")), CPU, threshold=0.0)
    found = detector(images(3), [["dog"], ["cup", "unicorn"], ["cup", "cup"]])
    assert [{one.name for one in of_image} for of_image in found[::2]] == [{"dog"}, {"cup"}]
    assert {one.name for one in found[1]} <= {"cup", "unicorn"} and detector.class_of("unicorn") == "unicorn"


def test_questions_to_a_model_with_classes(folder: Path) -> None:
    scorer = AttributeScorer(str(write_vilt(folder / "vilt")), CPU, batch_size=2)
    scores = scorer(images(3), ["a red cup and a dog", "a dog", "a cat"])
    assert all(0 < score < 1 for score in scores) and len(set(scores)) == 3
    with pytest.raises(ValueError, match="no classes yes and no"):
        AttributeScorer(str(write_vilt(folder / "other", ("red", "blue"))), CPU, 2)


def test_depth_model_decides_which_object_is_nearer(folder: Path) -> None:
    dog, cup = Found("dog", 0.8, (0.0, 0.0, 0.7, 1.0)), Found("cup", 0.6, (0.3, 0.0, 1.0, 1.0))
    prompts = ["a dog in front of a cup", "a dog behind a cup"]
    scorer = DepthScorer(Boxes([dog, cup], [dog, cup]), str(write_depth(folder / "dpt")), CPU)
    scores = scorer(images(1).expand(2, -1, -1, -1), prompts)
    # one of the two is true, whichever way the random model sees it
    assert sorted(scores) == pytest.approx([0.35, 0.35 + (0.4 / 1.0 / 0.5) / 2])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("red dogs", "dog"),
        ("woman", "person"),
        ("sofa", "couch"),
        ("cell phone", "cell phone"),
        ("phone", "cell phone"),
        ("unicorn", None),
    ],
)
def test_names_of_classes(name: str, found: str | None) -> None:
    assert known_name(name, {"dog", "person", "couch", "cell phone"}) == found
