import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from mars_megatron.data.store import Store
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import KIND_IMAGE, KIND_TEXT, KINDS
from tests.support.synthetic_index import write_synthetic


@pytest.fixture
def copy(tmp_path, index):
    """A copy of the index that a test may damage."""
    for ending in ("bin", "idx", "json"):
        shutil.copy(f"{index}.{ending}", tmp_path / f"copy.{ending}")
    return tmp_path / "copy"


def path(prefix, ending):
    return Path(f"{prefix}.{ending}")


def test_documents_can_be_read_by_part(index):
    store = Store(index)
    kinds = [store.kind(document) for document in range(36)]
    assert store.num_documents == 36 and store.scan.documents == [6, 30, 0, 0] and kinds.count(KIND_IMAGE) == 30
    image = kinds.index(KIND_IMAGE)
    codes = store.codes(image)
    assert codes.dtype == np.int64 and codes.shape == (4,) and 0 <= codes.min() <= codes.max() < 16
    captions = store.captions(image)
    assert len(captions) == store.num_captions(image)
    assert all(len(caption) and caption.max() < store.manifest.text_tokenizer.size for caption in captions)
    text = kinds.index(KIND_TEXT)
    assert len(store.captions(text)) == 1
    with pytest.raises(AssertionError):
        store.codes(text)


def test_megatron_core_reads_the_files(index):
    store, dataset = Store(index), IndexedDataset(str(index), multimodal=True)
    assert len(dataset.document_indices) - 1 == store.num_documents
    sequences, modes = dataset[0 : int(dataset.document_indices[1])]
    expected = store.captions(0) + ([store.codes(0)] if store.kind(0) == KIND_IMAGE else [])
    assert [s.tolist() for s in sequences] == [e.tolist() for e in expected]
    assert modes.tolist() == [0] * len(store.captions(0)) + [1] * (store.kind(0) == KIND_IMAGE)
    tokens = [store.tokens(number) for number in range(len(store.lengths))]
    assert all(found.dtype == np.int64 for found in tokens)
    assert [found.tolist() for found in tokens] == [dataset.get(number)[0].tolist() for number in range(len(tokens))]


@pytest.mark.parametrize("ending", ["bin", "idx", "json"])
def test_missing_file(copy, ending):
    path(copy, ending).unlink()
    with pytest.raises(ValueError, match=rf"copy\.{ending} is missing"):
        Store(copy)


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_truncated_file(copy, ending):
    file = path(copy, ending)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=rf"copy\.{ending} has .* bytes.*truncated"):
        Store(copy)


def test_header_alone(copy):
    path(copy, "idx").write_bytes(path(copy, "idx").read_bytes()[:10])
    with pytest.raises(ValueError, match="copy.idx is not an index"):
        Store(copy)


def test_tokens_of_another_index(copy):
    path(copy, "bin").write_bytes(path(copy, "bin").read_bytes() + bytes(8))
    with pytest.raises(ValueError, match="copy.bin has"):
        Store(copy)


def edit(prefix, **changes):
    values = json.loads(path(prefix, "json").read_text())
    path(prefix, "json").write_text(json.dumps(values | changes))


def test_manifest_of_another_format(copy):
    edit(copy, format_version=99)
    with pytest.raises(ValueError, match="format version 99"):
        Store(copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 2}'])
def test_manifest_that_is_none(copy, text):
    path(copy, "json").write_text(text)
    with pytest.raises(ValueError, match="copy.json is not"):
        Store(copy)


def test_manifest_of_another_index(copy):
    edit(copy, documents={"text": 6, "image": 29})
    with pytest.raises(ValueError, match="'image': 30.* its manifest says .*29"):
        Store(copy).scan  # noqa: B018


def test_images_of_another_grid(copy):
    image = json.loads(path(copy, "json").read_text())["image_tokenizer"]
    edit(copy, image_tokenizer=image | {"grid": [4, 4]})
    with pytest.raises(ValueError, match="has an image of another size"):
        Store(copy).scan  # noqa: B018


@pytest.mark.parametrize(
    ("lengths", "modes", "problem"),
    [
        ([4], [1], "has an image without a caption"),
        ([1, 4, 4], [0, 1, 1], "not captions followed"),
        ([2, 2], [0, 0], "more than one text"),
    ],
)
def test_documents_of_another_shape(copy, lengths, modes, problem):
    builder = IndexedDatasetBuilder(str(path(copy, "bin")), multimodal=True)
    builder.add_document(torch.zeros(sum(lengths)), lengths, modes)
    builder.finalize(str(path(copy, "idx")))
    edit(copy, documents={"image": 1})
    with pytest.raises(ValueError, match=rf"copy\.idx document 0 .*{problem}"):
        Store(copy).scan  # noqa: B018


def test_manifest_survives_a_round_trip(index, tmp_path):
    manifest = Manifest.read(path(index, "json"))
    manifest.write(tmp_path / "other.json")
    assert Manifest.read(tmp_path / "other.json") == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]


def test_every_kind_of_document_can_be_read(tmp_path):
    kinds = ["interleaved", "text", "pair", "image"] * 5
    store = Store(write_synthetic(tmp_path / "all", kinds, weights=True))
    assert [KINDS[store.kind(document)] for document in range(20)] == kinds
    for document, kind in enumerate(kinds):
        begin, end = store.boundaries[document : document + 2]
        sequences = [store.tokens(sequence).tolist() for sequence in range(begin, end)]
        if kind == "interleaved":
            assert [tokens.tolist() for _, tokens in store.parts(document)] == sequences
            assert [is_image for is_image, _ in store.parts(document)] == (store.modes[begin:end] == 4).tolist()
            continue
        found = [caption.tolist() for caption in store.captions(document)]
        found += [store.low_codes(document).tolist()] if kind == "pair" else []
        found += [store.codes(document).tolist()] if kind in ("image", "pair") else []
        assert found == sequences
    assert store.weights.shape == store.lengths.shape and pickle.loads(pickle.dumps(store)).prefix == store.prefix


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_damaged_weights(tmp_path, content):
    prefix = write_synthetic(tmp_path / "index", ["image"] * 3, weights=True)
    weights = path(prefix, "weights.npy")
    if content is None:
        np.save(weights, np.ones(2, dtype=np.float32))
    else:
        weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"index\.weights\.npy"):
        Store(prefix)
