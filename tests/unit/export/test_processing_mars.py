"""Samples of texts and images for the exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

from mars_megatron.export.processing_mars import MarsProcessor
from mars_megatron.indexing.images import load_image
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY, make_sample
from tests.support.exported_run import Exported
from tests.support.tiny_run import RESOLUTION

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
        ({"text": "a", "max_length": 3}, "max_length is 3, padding True and truncation False"),
        ({"text": "a", "return_tensors": "jax"}, "return_tensors is 'jax'; accepted: 'pt', 'np', None"),
        ({"text": "a", "stride": 2}, r"\['stride'\] given; accepted: padding"),
        ({"text": "a", "add_special_tokens": False}, "add_special_tokens is False; accepted for task t2i: True"),
        ({"text": "", "task": "text", "add_special_tokens": False}, "the texts have no ids"),
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
    with pytest.raises(ValueError, match="there are no images"):
        processor.encode_images([])
    small = MarsProcessor(processor.tokenizer, text_vocab_size=5)
    with pytest.raises(ValueError, match="accepted by this model: below 5"):
        small.encode_text(["a red square"])
    with pytest.raises(ValueError, match="has no image tokenizer"):
        small.encode_images(Image.new("RGB", (16, 16)))


def test_texts_without_an_end_are_what_writing_begins_with(exported: Exported, processor: Any) -> None:
    batch = processor(text=TEXTS, task="text", add_special_tokens=False)
    assert set(batch) == {"input_ids", "attention_mask"}
    for ids, mask, text in zip(batch["input_ids"], batch["attention_mask"], TEXTS, strict=True):
        assert ids[mask.bool()].tolist() == exported.sampler.text_tokenizer.encode(text) and mask[-1] == 1
    model = AutoModelForCausalLM.from_pretrained(exported.folder, trust_remote_code=True)
    written = model.generate(**batch, max_new_tokens=3)
    width = batch["input_ids"].shape[1]
    assert written.shape[1] > width and torch.equal(written[:, :width], batch["input_ids"])
    assert processor.batch_decode(written[:1], skip_special_tokens=True)[0].startswith(TEXTS[0])


@pytest.mark.parametrize("tensors", ["pt", "np", None])
def test_samples_come_as_what_is_asked_for(processor: Any, images: list[Image.Image], tensors: str | None) -> None:
    want = processor(images, TEXTS)
    got = processor(images, TEXTS, padding="longest", return_tensors=tensors)
    for name, values in want.items():
        kind = {"pt": torch.Tensor, "np": np.ndarray, None: list}[tensors]
        assert isinstance(got[name], kind) and np.array_equal(np.asarray(got[name]), values.numpy())
    wide = processor(images, TEXTS, padding="max_length", max_length=40, return_tensors=tensors)
    assert np.asarray(wide["labels"]).shape == (2, 40)
    loose = processor(images, TEXTS, padding=False, return_tensors=None)
    assert [len(row) for row in loose["labels"]] == want["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize(("task", "frame"), [("t2i", 18), ("i2t", 19), ("text", 1), ("prompt", 1)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_captions_are_cut_and_images_are_not(
    processor: Any, images: list[Image.Image], task: str, frame: int, side: str
) -> None:
    """The image and its marks are `frame` ids."""
    pictures = images if task in ("t2i", "i2t") else None
    task = task.replace("prompt", "t2i")
    processor.tokenizer.truncation_side = side
    whole = processor(pictures, TEXTS, task=task, padding=False, return_tensors=None)
    for room in (0, 2, 30):
        how = {"truncation": True, "max_length": frame + room, "padding": False, "return_tensors": None}
        cut = processor(pictures, TEXTS, task=task, **how)
        for name in whole:
            for got, want in zip(cut[name], whole[name], strict=True):
                text = len(want) - frame
                lost = max(text - room, 0)
                # the caption begins the sample, or for i2t follows the image
                begin = 18 if task == "i2t" else 0
                begin += text - lost if side == "right" else 0
                assert got == want[:begin] + want[begin + lost :]
    if frame > 1:
        message = f"max_length is 5; accepted for this task {task}: {frame} or more, images cannot be cut"
        with pytest.raises(ValueError, match=message):
            processor(pictures, TEXTS, task=task, truncation=True, max_length=5)


def test_images_alone_cannot_be_cut(processor: Any, images: list[Image.Image]) -> None:
    how = {"task": "i2t", "truncation": "longest_first"}
    assert torch.equal(processor(images, **how, max_length=18)["input_ids"], processor(images, task="i2t")["input_ids"])
    with pytest.raises(ValueError, match="18 or more, images cannot be cut"):
        processor(images, **how, max_length=17)


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


def test_conversations_are_the_tokenizers(processor: Any, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a red square"}, {"role": "assistant", "content": "b"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "a red "}, {"type": "text", "text": "square"}]}]
    with pytest.raises(ValueError, match="chat_template"):
        processor.apply_chat_template(chat)
    processor.tokenizer.chat_template = TEMPLATE
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "[user]a red square[assistant]b>"
    assert processor.apply_chat_template([parts, chat]) == ["[user]a red square", text[:-1]]
    ids = processor.apply_chat_template(chat, tokenize=True)
    assert list(ids) == processor.tokenizer.apply_chat_template(chat, return_dict=False)
    batch = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [list(ids)]
    assert processor.apply_chat_template(chat, chat_template="{{ messages[0].role }}") == "user"
    with pytest.raises(ValueError, match="parts of type image; accepted: text"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    processor.chat_template = {"default": TEMPLATE, "short": "{{ messages[1].content }}"}
    assert processor.apply_chat_template(chat) == text[:-1]
    assert processor.apply_chat_template(chat, chat_template="short") == "b"
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert again.apply_chat_template(chat) == text[:-1]
    assert again.apply_chat_template(chat, chat_template="short") == "b"
