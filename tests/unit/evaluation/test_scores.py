"""Shares of what is right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mars_megatron.evaluation.captions import caption_accuracy
from mars_megatron.evaluation.completion import Fact, completion_accuracy, read_facts
from mars_megatron.evaluation.labels import LabelWords
from mars_megatron.evaluation.prompt_fidelity import check_prompts, prompt_fidelity
from mars_megatron.generation.prompts import Prompt

PROMPTS = [Prompt("three", "3", "en"), Prompt("三", "3", "zh"), Prompt("four", "4", "en"), Prompt("四", "4", "zh")]
WORDS = LabelWords({"3": ["three", "三"], "4": ["four", "四"]})


def test_prompt_fidelity() -> None:
    fidelity = prompt_fidelity(["3", "4", "4", "4"], PROMPTS)
    assert fidelity.overall == 0.75 and fidelity.num_images == 4
    assert fidelity.by_group == {"en": 1.0, "zh": 0.5}
    assert fidelity.by_label == {"3": 0.5, "4": 1.0}
    assert prompt_fidelity(["3"], [Prompt("three", "3")]).by_group == {}


def test_prompts_need_a_label_that_the_classifier_knows() -> None:
    classifier = SimpleNamespace(labels=["3", "4"])
    check_prompts(PROMPTS, classifier)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"prompt 'five' has the label '5'; accepted: 3, 4"):
        check_prompts([*PROMPTS, Prompt("five", "5")], classifier)  # type: ignore[arg-type]


def test_caption_accuracy() -> None:
    captions = ["a handwritten digit three", "数字四", "nothing", "three or four"]
    assert caption_accuracy(captions, ["3", "4", "3", "3"], WORDS) == 0.5
    with pytest.raises(ValueError, match="no label word for '5'"):
        caption_accuracy(["five"], ["5"], WORDS)


def test_completion_accuracy() -> None:
    facts = [Fact("three plus four is", "seven", "sum"), Fact("三加四等于", "七", "sum"), Fact("after two", "three")]
    accuracy = completion_accuracy([" seven .", "七", " threes"], facts)
    assert accuracy.overall == pytest.approx(2 / 3) and accuracy.by_group == {"": 0.0, "sum": 1.0}


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
