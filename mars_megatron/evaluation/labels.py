"""Labelled images, and the words that name a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mars_megatron.files.plain_text import parse_json, read_json, read_lines
from mars_megatron.indexing.images import load_images
from mars_megatron.indexing.sources import CAPTIONS_FILE

# A character of the scripts that put spaces between words; the others (from U+2E80: Chinese, Japanese) do not.
_SPACED = "[^\\W⺀-￿]"


@dataclass(frozen=True)
class LabelledImages:
    """Real images of known content.

    Args:
        images: uint8 [N, 3, height, width].
        labels: N labels.
    """

    images: torch.Tensor
    labels: list[str]

    def take(self, numbers: Sequence[int]) -> LabelledImages:
        """Some of them."""
        return LabelledImages(self.images[list(numbers)], [self.labels[number] for number in numbers])


def list_labelled_images(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Files and labels of the images of an image-text folder whose lines have a "label".

    Args:
        folder: Has captions.jsonl with lines such as {"image": "a.png", "captions": [...], "label": "cat"}.

    Raises:
        ValueError: There is no such file, a line is damaged, or no image has a label.
    """
    file = Path(folder) / CAPTIONS_FILE
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give an image-text folder")
    paths, labels = [], []
    for where, line in read_lines(file):
        sample = parse_json(line, where)
        if isinstance(sample, dict) and "image" in sample and "label" in sample:
            paths.append(Path(folder) / str(sample["image"]))
            labels.append(str(sample["label"]))
    if not paths:
        raise ValueError(f'{file} has no line with both "image" and "label"')
    return paths, labels


def read_labelled_images(folder: str | Path, resolution: int) -> LabelledImages:
    """Read the images that `list_labelled_images` lists.

    Args:
        folder: See there.
        resolution: Height and width that they are brought to, in pixels.

    Raises:
        ValueError: As there, or an image cannot be read.
    """
    paths, labels = list_labelled_images(folder)
    images, unreadable = load_images(paths, resolution, progress=False)
    if unreadable:
        raise ValueError(f"{len(unreadable)} images cannot be read, first {unreadable[0][0]}: {unreadable[0][1]}")
    return LabelledImages(images, labels)


class LabelWords:
    """Finds which label a text names.

    Args:
        words: The words of each label, such as {"3": ["three", "三"]}. Upper and lower case are the same.
    """

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        self.labels = {word.lower(): label for label, names in words.items() for word in names}
        # Longer words first, so that "thirteen" is not taken for its part.
        ordered = sorted(self.labels, key=len, reverse=True)
        self._pattern = re.compile("|".join(whole_word(word).pattern for word in ordered))

    @classmethod
    def read(cls, path: str | Path) -> LabelWords:
        """Read a JSON file of words by label.

        Raises:
            ValueError: It is missing or of another form, or a word belongs to two labels.
        """
        if not Path(path).is_file():
            raise ValueError(f"label words {path} is not a file")
        words = read_json(path, "label words")
        lists = list(words.values()) if isinstance(words, dict) else []
        if not lists or not all(isinstance(names, list) and names for names in lists):
            raise ValueError(f'label words {path} must be like {{"3": ["three", "三"]}}, with words for each label')
        every = [word.lower() if isinstance(word, str) else "" for names in lists for word in names]
        wrong = sorted({word for word in every if not word or every.count(word) > 1})
        if wrong:
            raise ValueError(f"label words {path} has words that are empty or appear twice: {wrong}")
        return cls(words)

    def last_named(self, text: str) -> str | None:
        """The label of the last label word in the text; None without any.

        The last, because a word may have other uses in front of it: in 一个手写数字三 the 一 is no label.
        """
        found = self._pattern.findall(text.lower())
        return self.labels[found[-1]] if found else None


def whole_word(word: str) -> re.Pattern[str]:
    """Finds a word; where it begins or ends with a letter of a spaced script, it must not go on there."""
    start = f"(?<!{_SPACED})" if re.match(_SPACED, word) else ""
    end = f"(?!{_SPACED})" if re.match(_SPACED, word[-1]) else ""
    return re.compile(start + re.escape(word) + end)
