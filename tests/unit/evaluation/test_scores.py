"""Shares of what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from mars_megatron.evaluation.caption_accuracy import caption_accuracy
from mars_megatron.evaluation.facts import Fact, completion_accuracy, read_facts
from mars_megatron.evaluation.intervals import Judged
from mars_megatron.evaluation.labels import LabelWords
from mars_megatron.evaluation.prompt_fidelity import check_prompts, prompt_fidelity
from mars_megatron.evaluation.texts import read_sentences
from mars_megatron.gallery.prompts import Prompt

PROMPTS = [Prompt("three", "3", "en"), Prompt("三", "3", "zh"), Prompt("four", "4", "en"), Prompt("四", "4", "zh")]
WORDS = LabelWords({"3": ["three", "三"], "4": ["four", "四"]})


def values(judged: Judged, name: str) -> dict[str, float]:
    return {score: estimate.value for score, estimate in judged.scores(name).items()}


def test_prompt_fidelity() -> None:
    fidelity = prompt_fidelity(["3", "4", "4", "4"], PROMPTS)
    assert fidelity.overall == 0.75 and len(fidelity.right) == 4
    assert values(fidelity, "f") == {
        "f": 0.75,
        "f/group/en": 1.0,
        "f/group/zh": 0.5,
        "f/label/3": 0.5,
        "f/label/4": 1.0,
    }
    assert fidelity.scores("f")["f/group/zh"].count == 2
    without_groups = prompt_fidelity(["3"], [Prompt("three", "3")])
    assert values(without_groups, "f") == {"f": 1.0, "f/label/3": 1.0}


def test_prompts_need_a_label_that_the_classifier_knows() -> None:
    check_prompts(PROMPTS, {"3", "4"})
    with pytest.raises(ValueError, match=r"prompt 'five' has the label '5'; accepted: 3, 4"):
        check_prompts([*PROMPTS, Prompt("five", "5")], {"3", "4"})


def test_caption_accuracy() -> None:
    captions = ["a handwritten digit three", "数字四", "nothing", "three or four"]
    judged = caption_accuracy(captions, ["3", "4", "3", "3"], WORDS)
    assert values(judged, "c") == pytest.approx({"c": 0.5, "c/label/3": 1 / 3, "c/label/4": 1.0})
    with pytest.raises(ValueError, match="no label word for '5'"):
        caption_accuracy(["five"], ["5"], WORDS)


def test_completion_accuracy() -> None:
    facts = [Fact("three plus four is", "seven", "sum"), Fact("三加四等于", "七", "sum"), Fact("after two", "three")]
    accuracy = completion_accuracy([" seven .", "七", " threes"], facts)
    assert values(accuracy, "a") == pytest.approx({"a": 2 / 3, "a/group/": 0.0, "a/group/sum": 1.0})


def test_texts_of_a_file(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("one\n\ntwo three\n", encoding="utf-8")
    assert read_sentences(plain) == ["one", "two three"]
    lines.write_text(
        '{"prompt": "one and one is", "answer": "two"}\n\n{"prompt": "一加一等于", "answer": "二", "group": "zh"}\n'
        '{"prompt": "alone"}\n',
        encoding="utf-8",
    )
    assert read_sentences(lines) == ["one and one is two", "一加一等于二", "alone"]
    for content, message in (
        ('{"answer": "a"}', "line 1 is"),
        ('{"prompt": 3}', "line 1 is"),
        ("[", "not JSON"),
        ("", "is empty"),
    ):
        lines.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_sentences(lines)


def test_read_facts(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "one plus one is", "answer": "two"}\n\n{"prompt": "a", "answer": "b", "group": "c"}\n')
    assert read_facts(path) == [Fact("one plus one is", "two"), Fact("a", "b", "c")]
    for content, message in (
        ('{"prompt": "a"}', "line 1 is not a fact"),
        ('{"prompt": "a", "answer": ""}', "non-empty"),
        ("", "is empty"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_facts(path)
