import json
from collections import Counter

import torch

from examples.digits.images import load_digit_images, vary, write_digits
from mars_megatron.indexing.images import load_images
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.sources import folder_images
from mars_megatron.indexing.sources.lines import read_lines
from mars_megatron.indexing.sources.reading import HashedFile

WORDS = "zero one two three four five six seven eight nine".split()


def captions(digit):
    return [f"the digit {WORDS[digit]}", f"a {WORDS[digit]}", f"数字{digit}"]


def read_samples(folder):
    """The samples of a folder that a build would index."""
    works = read_lines(HashedFile(folder / "captions.jsonl"), True, 64)
    return [sample for work in works for sample in work.samples(BuildOptions(), Counter())]


def test_halves_are_all_the_digits_and_do_not_overlap():
    train, held_out = load_digit_images("train"), load_digit_images("held_out")
    assert len(train[0]) + len(held_out[0]) == 1797 and len(train[0]) == 898
    for images, digits in (train, held_out):
        assert images.shape[1:] == (3, 16, 16) and images.dtype == torch.uint8
        assert torch.bincount(digits, minlength=10).min() > 70
    seen = {image.numpy().tobytes() for image in train[0]}
    assert not any(image.numpy().tobytes() in seen for image in held_out[0])


def test_variants_differ_but_stay_near():
    images, _ = load_digit_images("train")
    varied = vary(images[:200], torch.Generator().manual_seed(0))
    assert varied.dtype == torch.uint8 and varied.shape == images[:200].shape
    assert (varied != images[:200]).flatten(1).any(1).all()
    own = (varied.float() - images[:200].float()).square().flatten(1).mean(1)
    other = (varied.float() - images[200:400].float()).square().flatten(1).mean(1)
    assert own.mean() < 0.5 * other.mean()
    still = vary(images[:50], torch.Generator().manual_seed(0), degrees=0, scale=0, shift=0)
    assert (still.int() - images[:50].int()).abs().max() <= 1


def test_folder_is_a_source_of_the_pictures_and_captions(tmp_path):
    count = write_digits(tmp_path / "digits", captions, split="held_out", progress=False)
    images, digits = load_digit_images("held_out")
    records = read_samples(tmp_path / "digits")
    assert count == len(records) == 899
    assert [[text for text, _ in record.captions] for record in records] == [
        captions(digit) for digit in digits.tolist()
    ]
    lines = (tmp_path / "digits" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["label"] for line in lines] == [str(digit) for digit in digits.tolist()]
    read, unreadable = load_images([record.image for record in records], 16, progress=False)
    assert torch.equal(read, images) and not unreadable


def test_variants_follow_the_originals(tmp_path):
    count = write_digits(tmp_path, captions, variants=2, resolution=8, progress=False)
    records = read_samples(tmp_path)
    assert count == len(records) == 2 * 898 and len(list(tmp_path.iterdir())) == count + 1
    _, digits = load_digit_images("train", 8)
    for record, digit in zip(records, digits.repeat(2).tolist(), strict=True):
        assert [text for text, _ in record.captions] == captions(digit)
    originals, _ = load_digit_images("train", 8)
    assert torch.equal(load_images([record.image for record in records[:898]], 8, progress=False)[0], originals)
    assert [str(path) for path in folder_images(tmp_path)] == [record.image for record in records]
    first = {path.name: path.read_bytes() for path in folder_images(tmp_path)}
    write_digits(tmp_path, captions, variants=2, resolution=8, progress=False)
    assert {path.name: path.read_bytes() for path in folder_images(tmp_path)} == first
