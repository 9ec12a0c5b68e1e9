import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mars_megatron.indexing.images import UNREADABLE, load_image
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.sources import FolderSource
from mars_megatron.data.store import Store
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer


@pytest.fixture(scope="module")
def tokenizers(text_model, image_model):
    return load_text_tokenizer(text_model), load_image_tokenizer(image_model)


def make_folder(path, samples):
    """captions.jsonl with the samples (bytes and str as they are) and three good pictures."""
    path.mkdir()
    pixels = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path / name)
    lines = [s if isinstance(s, bytes) else json.dumps(s, ensure_ascii=False).encode() for s in samples]
    (path / "captions.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def run(folder, prefix, tokenizers, **options):
    options = {"resolution": 8, "progress": False} | options
    return build_index(FolderSource(folder), prefix, *tokenizers, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def log(prefix):
    return [json.loads(line) for line in Path(f"{prefix}.skipped.jsonl").read_text().splitlines()]


def test_documents_come_back_in_order_with_their_tokens(index, folder, tokenizers):
    store = Store(index)
    text, image = tokenizers
    samples = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert store.num_documents == len(samples)
    for document, sample in enumerate(samples):
        texts = sample.get("captions", [sample.get("text")])
        # SentencePiece decodes what it has encoded, but for white space at the end
        assert [text.decode(ids.tolist()) for ids in store.captions(document)] == [t.strip() for t in texts]
        assert store.is_image[document] == ("image" in sample)
        if "image" in sample:
            pixels = load_image(folder / sample["image"], 8)
            assert store.codes(document).tolist() == image.encode(pixels[None])[0].tolist()


def test_manifest_counts_what_is_there(index, tokenizers):
    store, (text, image) = Store(index), tokenizers
    manifest = store.manifest
    assert (manifest.num_image_documents, manifest.num_text_documents) == (30, 6)
    assert manifest.tokens["visual"] == 30 * 4
    assert manifest.tokens["text"] == sum(len(c) for d in range(36) for c in store.captions(d))
    assert manifest.text_tokenizer.fingerprint == text.fingerprint
    assert (manifest.text_tokenizer.size, manifest.text_tokenizer.eos_id) == (text.size, text.eos_id)
    assert manifest.image_tokenizer.fingerprint == image.fingerprint
    assert (manifest.image_tokenizer.codebook_size, manifest.image_tokenizer.grid) == (16, (2, 2))
    assert manifest.skipped == {}
    assert names(Path(index).parent) == ["train.bin", "train.idx", "train.json"]


def test_bad_samples_are_skipped_counted_and_logged(tmp_path, tokenizers):
    folder = make_folder(
        tmp_path / "raw",
        [
            {"image": "a.png", "caption": "a red square"},
            {"image": "broken.png", "caption": "a red square"},
            {"image": "missing.png", "caption": "a red square"},
            {"image": "b.png", "captions": ["", "  "]},
            {"image": "b.png", "captions": ["a blue circle", ""]},
            {"image": "b.png"},
            {"text": ""},
            {"text": "the colour red"},
            {"image": 7, "caption": "a red square"},
            b"{not json",
            b'{"text": "\xff"}',
            b"",
            b"[1]",
            {"image": "cut.jpg", "caption": "a red square"},
        ],
    )
    (folder / "broken.png").write_bytes(b"no picture at all")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "full.jpg")
    (folder / "cut.jpg").write_bytes((folder / "full.jpg").read_bytes()[:900])
    prefix = tmp_path / "index"
    manifest = run(folder, prefix, tokenizers)
    assert manifest.skipped == {
        "unreadable_image": 3,
        "empty_caption": 1,
        "empty_caption_dropped": 1,
        "empty_text": 1,
        "bad_line": 5,
    }
    by_line = {entry["line"]: entry for entry in log(prefix)}
    assert {line: entry["reason"] for line, entry in by_line.items()} == {
        2: "unreadable_image",
        3: "unreadable_image",
        4: "empty_caption",
        5: "empty_caption_dropped",
        6: "bad_line",
        7: "empty_text",
        9: "bad_line",
        10: "bad_line",
        11: "bad_line",
        13: "bad_line",
        14: "unreadable_image",
    }
    assert "broken.png" in by_line[2]["detail"]
    store = Store(prefix)
    assert store.is_image.tolist() == [True, True, False]
    assert store.num_captions.tolist() == [1, 1, 1]


def test_text_alone_needs_no_image_tokenizer(tmp_path, tokenizers):
    folder = make_folder(tmp_path / "raw", [{"text": "the colour red"}, {"text": "a square"}])
    manifest = run(folder, tmp_path / "index", (tokenizers[0], None), resolution=0)
    assert manifest.image_tokenizer is None and manifest.num_text_documents == 2
    assert Store(tmp_path / "index").num_codes == 0


def test_batch_size_does_not_change_the_files(tmp_path, folder, tokenizers, index):
    run(folder, tmp_path / "index", tokenizers, batch_size=1)
    for ending in ("bin", "idx"):
        assert Path(f"{index}.{ending}").read_bytes() == (tmp_path / f"index.{ending}").read_bytes()


@pytest.mark.parametrize("samples", [[], [{"image": "none.png", "caption": "a red square"}]])
def test_nothing_indexed_is_an_error_and_leaves_no_index(tmp_path, tokenizers, samples):
    folder = make_folder(tmp_path / "raw", samples)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="nothing was indexed"):
        run(folder, tmp_path / "out" / "index", tokenizers)
    assert names(tmp_path / "out") == (["index.skipped.jsonl"] if samples else [])


def test_failure_leaves_nothing_and_keeps_the_older_index(tmp_path, folder, tokenizers, monkeypatch):
    out = tmp_path / "out"
    first = make_folder(tmp_path / "raw", [{"image": "a.png", "caption": "a red square"}])
    run(first, out / "index", tokenizers)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(images, batch_size):
        raise RuntimeError("device lost")

    monkeypatch.setattr(tokenizers[1], "encode", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        run(folder, out / "index", tokenizers)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_index_again_replaces(tmp_path, tokenizers):
    bad = {"image": "none.png", "caption": "a red square"}
    good = {"image": "a.png", "caption": "a red square"}
    run(make_folder(tmp_path / "one", [good, bad]), tmp_path / "index", tokenizers)
    assert (tmp_path / "index.skipped.jsonl").is_file()
    run(make_folder(tmp_path / "two", [good, good]), tmp_path / "index", tokenizers)
    assert Store(tmp_path / "index").num_documents == 2
    assert not (tmp_path / "index.skipped.jsonl").exists()


def test_kill_before_the_manifest_leaves_an_index_that_is_refused(tmp_path, tokenizers, monkeypatch):
    from mars_megatron.data.manifest import Manifest

    folder = make_folder(tmp_path / "raw", [{"image": "a.png", "caption": "a red square"}])
    run(folder, tmp_path / "index", tokenizers)
    monkeypatch.setattr(Manifest, "write", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "index", tokenizers)
    with pytest.raises(ValueError, match="index.json is missing"):
        Store(tmp_path / "index")


def test_images_without_tokenizer_and_wrong_resolution(tmp_path, folder, tokenizers):
    with pytest.raises(ValueError, match="give an image tokenizer"):
        run(folder, tmp_path / "index", (tokenizers[0], None), resolution=0)
    with pytest.raises(ValueError, match="resolution is 10; .* multiple of 4"):
        run(folder, tmp_path / "index", tokenizers, resolution=10)
    with pytest.raises(ValueError, match="batch size is 0"):
        run(folder, tmp_path / "index", tokenizers, batch_size=0)
    assert names(tmp_path) == []


def test_missing_input(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no captions.jsonl"):
        FolderSource(tmp_path)


def test_images_are_upright_rgb_and_cropped_at_the_centre(tmp_path):
    wide = Image.new("RGB", (32, 16), (255, 0, 0))
    wide.paste((0, 0, 255), (8, 0, 24, 16))
    wide.save(tmp_path / "wide.png")
    image = load_image(tmp_path / "wide.png", 16)
    assert image.dtype == torch.uint8 and image.shape == (3, 16, 16)
    assert image.flatten(1).T.unique(dim=0).tolist() == [[0, 0, 255]]

    halves = Image.new("RGB", (16, 16), (0, 0, 0))
    halves.paste((255, 255, 255), (0, 0, 8, 16))  # white on the left
    exif = halves.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: white on top
    halves.save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png", 16)
    assert image[:, :8].min() == 255 and image[:, 8:].max() == 0

    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png", 8).unique().tolist() == [77]
    with pytest.raises(UNREADABLE):
        load_image(tmp_path / "none.png", 8)
