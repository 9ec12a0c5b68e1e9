"""The classifier that judges images."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.evaluation.classifier import ImageClassifier, split
from mars_megatron.evaluation.labels import LabelledImages


def bars(num: int, seed: int, colored: bool = False) -> LabelledImages:
    """Noisy images with a bar at one of four places; coloured ones differ in nothing but colour."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (num, 3 if colored else 1, 16, 16), generator=generator, dtype=torch.uint8)
    images = images.expand(-1, 3, -1, -1).clone()
    kinds = torch.arange(num) % 4
    for image, kind in zip(images, kinds.tolist(), strict=True):
        if colored:
            image[kind % 3 : kind % 3 + 1 + kind // 3, 4:12, 4:12] = 220
        else:
            image[:, :, 1 + 4 * kind : 3 + 4 * kind] = 220
    return LabelledImages(images, ["left", "middle", "right", "end"][0:4] * (num // 4))


def share_right(classifier: ImageClassifier, data: LabelledImages) -> float:
    return sum(classifier.right(data)) / len(data.labels)


@pytest.mark.parametrize("colored", [False, True])
def test_learns_what_it_was_shown(colored: bool) -> None:
    classifier = ImageClassifier(bars(80, 0, colored))
    assert classifier.labels == ["end", "left", "middle", "right"]
    assert share_right(classifier, bars(40, 1, colored)) == 1.0
    wrong = LabelledImages(bars(40, 1, colored).images, ["left"] * 40)
    assert share_right(classifier, wrong) == 0.25


def test_takes_both_image_layouts() -> None:
    classifier, data = ImageClassifier(bars(80, 0)), bars(8, 1)
    assert classifier.predict(data.images.permute(0, 2, 3, 1)) == classifier.predict(data.images) == data.labels
    assert classifier.predict(data.images[:0]) == []


def test_is_deterministic_and_shrinks_large_images() -> None:
    data, test = bars(40, 0), bars(40, 1)
    large = LabelledImages(test.images.repeat_interleave(4, 2).repeat_interleave(4, 3), test.labels)
    train = LabelledImages(data.images.repeat_interleave(4, 2).repeat_interleave(4, 3), data.labels)
    assert ImageClassifier(train).predict(large.images) == ImageClassifier(train).predict(large.images) == test.labels


def test_split_has_every_label_on_both_sides() -> None:
    data = bars(40, 0)
    train, test = split(data)
    assert len(train.labels) == 28 and len(test.labels) == 12
    assert set(train.labels) == set(test.labels) == set(data.labels)
    both = torch.cat((train.images, test.images)).flatten(1)
    assert len(both.unique(dim=0)) == 40, "an image is on both sides"


def test_split_refuses_too_few_images() -> None:
    data = bars(40, 0)
    with pytest.raises(ValueError, match="label 'left' has 2 images, of 2 labels"):
        split(LabelledImages(data.images[:12], ["left"] * 2 + ["right"] * 10))
    with pytest.raises(ValueError, match="of 1 labels"):
        split(LabelledImages(data.images[:12], ["left"] * 12))
