"""Samples of texts and images for the exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from mars_megatron.data.samples import I2T, T2I, TEXT_ONLY, make_sample
from mars_megatron.huggingface.processing_mars import MarsProcessor
from mars_megatron.indexing.images import load_image
from tests.unit.generation.tiny_run import RESOLUTION
from tests.unit.huggingface.conftest import Exported

TEXTS = ["a red square", "绿色"]


@pytest.fixture
def processor(exported: Exported) -> Any:
    return AutoProcessor.from_pretrained(exported.folder, trust_remote_code=True)


@pytest.fixture
def images(exported: Exported) -> list[Image.Image]:
    return [Image.open(Path(exported.run.images) / f"{number}.png") for number in (0, 4)]


def test_images_become_the_codes_of_the_index_and_back(
    exported: Exported, processor: Any, images: list[Image.Image]
) -> None:
    tokenizer = exported.sampler.image_tokenizer
    pixels = torch.stack([load_image(image.filename, RESOLUTION) for image in images])
    codes = processor.encode_images(images)
    assert torch.equal(codes, tokenizer.encode(pixels)) and len(codes.unique()) > 1
    decoded = np.stack([np.asarray(image) for image in processor.decode_images(codes)])
    assert np.array_equal(decoded, tokenizer.decode(codes, exported.sampler.grid).numpy())


def test_other_images_are_turned_resized_and_cropped_as_for_training(processor: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (40, 30, 4), dtype=np.uint8), "RGBA").convert("RGB")
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    picture.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        got = processor._pixels(opened)
    assert torch.equal(got, load_image(tmp_path / "a.png", RESOLUTION))
    assert not torch.equal(got, processor._pixels(picture))


@pytest.mark.parametrize(("task", "kind"), [("t2i", T2I), ("i2t", I2T), ("text", TEXT_ONLY)])
def test_samples_are_laid_out_as_in_training(
    exported: Exported, processor: Any, images: list[Image.Image], task: str, kind: int
) -> None:
    batch = processor(None if kind == TEXT_ONLY else images, TEXTS, task=task)
    tokenizer, vocabulary = exported.sampler.text_tokenizer, exported.loaded.vocabulary
    codes = processor.encode_images(images).numpy()
    for number, text in enumerate(TEXTS):
        ids = np.array(tokenizer.encode(text))
        image = None if kind == TEXT_ONLY else codes[number]
        inputs, targets, learned = make_sample(kind, ids, image, vocabulary, tokenizer.eos_id)
        length = len(inputs) + 1
        assert batch["input_ids"][number, :length].tolist() == [inputs[0], *targets]
        assert batch["attention_mask"][number].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        labels = batch["labels"][number]
        assert labels[1:length].tolist() == np.where(learned, targets, -100).tolist()
        assert bool((labels[length:] == -100).all())


def test_beginnings_for_generation_are_padded_on_the_left(
    exported: Exported, processor: Any, images: list[Image.Image]
) -> None:
    vocabulary, tokenizer = exported.loaded.vocabulary, exported.sampler.text_tokenizer
    batch = processor(text=TEXTS, task="t2i", return_tensors="pt")
    assert "labels" not in batch
    for ids, mask, text in zip(batch["input_ids"], batch["attention_mask"], TEXTS, strict=True):
        assert ids[mask.bool()].tolist() == [*tokenizer.encode(text), vocabulary.boi]
        assert mask[-1] == 1
    batch = processor(images[0], task="i2t")
    codes = vocabulary.code_to_id(processor.encode_images(images[0])[0]).tolist()
    assert batch["input_ids"].tolist() == [[vocabulary.boi, *codes, vocabulary.eoi]]


def test_saved_processors_load_again(processor: Any, images: list[Image.Image], tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path / "saved")
    again = AutoProcessor.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert torch.equal(again(images, TEXTS)["input_ids"], processor(images, TEXTS)["input_ids"])
    for name in ("text_vocab_size", "codebook_size", "resolution", "downsample"):
        assert getattr(again, name) == getattr(processor, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "a", "task": "draw"}, "task is 'draw'; accepted: t2i, i2t, text"),
        ({"text": "a", "max_length": 3}, "max_length"),
        ({"text": "a", "return_tensors": "np"}, "return_tensors"),
        ({"task": "t2i"}, "task t2i needs text"),
        ({"images": [], "task": "i2t"}, "there are no samples"),
        ({"text": "a", "task": "i2t"}, "task i2t needs images"),
        ({"text": ["a", "b"], "images": Image.new("RGB", (8, 8))}, "1 images and 2 texts"),
        ({"text": "a", "images": Image.new("RGB", (8, 8)), "task": "text"}, "do not make samples of task text"),
    ],
)
def test_what_makes_no_sample_is_refused(processor: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_codes_and_ids_outside_the_model_are_refused(processor: Any) -> None:
    with pytest.raises(ValueError, match=r"codes are \(1, 3\); accepted: \[N, 16\]"):
        processor.decode_images(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"codes lie in 0\.\.16; there are 16"):
        processor.decode_images(torch.arange(1, 17)[None].flip(1) * torch.tensor([1] * 15 + [0]))
    small = MarsProcessor(processor.tokenizer, text_vocab_size=5)
    with pytest.raises(ValueError, match="accepted by this model: below 5"):
        small.encode_text(["a red square"])
    with pytest.raises(ValueError, match="has no image tokenizer"):
        small.encode_images(Image.new("RGB", (16, 16)))
