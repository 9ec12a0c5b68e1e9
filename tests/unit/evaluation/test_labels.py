"""Labelled images and label words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mars_megatron.evaluation.labels import LabelWords, read_labelled_images, whole_word

WORDS = {"1": ["one", "一"], "3": ["Three", "三"], "13": ["thirteen", "three hundred"], "5": ["cinq", "été"]}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a handwritten digit three", "3"),
        ("THREE.", "3"),
        ("thirteen", "13"),
        ("three hundred of them", "13"),
        ("someone wrote it, stone by stone", None),
        ("一个手写数字三", "3"),
        ("一个手写数字一", "1"),
        ("数字三的图片", "3"),
        ("digit三three", "3"),
        ("one, no: cinq", "5"),
        ("l'été", "5"),
        ("étés", None),
        ("", None),
    ],
)
def test_last_label_word(text: str, label: str | None) -> None:
    assert LabelWords(WORDS).last_named(text) == label


def test_whole_word() -> None:
    assert whole_word("seven").match("seven .") and not whole_word("seven").match("seventeen")
    assert whole_word("七").match("七个")


def test_read_label_words(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(WORDS, ensure_ascii=False), encoding="utf-8")
    assert LabelWords.read(path).labels == LabelWords(WORDS).labels
    for content, message in (
        ("[", "is not JSON"),
        ("{}", "must be like"),
        ('{"3": "three"}', "must be like"),
        ('{"3": ["three"], "4": ["Three"]}', r"appear twice: \['three'\]"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            LabelWords.read(path)
    with pytest.raises(ValueError, match="is not a file"):
        LabelWords.read(tmp_path / "none.json")


def test_read_labelled_images(tmp_path: Path) -> None:
    for name, color in (("a.png", (255, 0, 0)), ("b.png", (0, 0, 255))):
        Image.new("RGB", (8, 8), color).save(tmp_path / name)
    lines = [
        {"image": "b.png", "captions": ["blue\u2028as water"], "label": "blue"},
        {"text": "no image"},
        {"image": "a.png", "captions": ["red"]},
        {"image": "a.png", "captions": ["red"], "label": "red"},
    ]
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n\n" for line in lines), encoding="utf-8")
    found = read_labelled_images(tmp_path, 4)
    assert found.labels == ["blue", "red"] and found.images.shape == (2, 3, 4, 4)
    assert found.images[0, :, 0, 0].tolist() == [0, 0, 255]
    assert found.take([1]).labels == ["red"] and torch.equal(found.take([1]).images, found.images[1:])

    captions.write_text(captions.read_text(encoding="utf-8") + '{"image": "c.png", "label": "red"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 images cannot be read, first .*c\.png"):
        read_labelled_images(tmp_path, 4)
    captions.write_text('{"image": "a.png", "caption": "red"}\n')
    with pytest.raises(ValueError, match='no line with both "image" and "label"'):
        read_labelled_images(tmp_path, 4)
    captions.write_text("{\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        read_labelled_images(tmp_path, 4)
    with pytest.raises(ValueError, match="does not exist"):
        read_labelled_images(tmp_path / "none", 4)
