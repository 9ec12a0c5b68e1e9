"""Every source and every kind of document, from raw files to the index and back."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from mars_megatron.data.store import Store
from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from tests.support.raw import (
    LOW,
    RESOLUTION,
    build,
    contents,
    documents,
    index_bytes,
    log,
    picture,
    write_lines,
    write_tar,
)

A, B, C = picture(1), picture(2), picture(3, size=(20, 10))


def codes(tokenizers, data, size=RESOLUTION):
    """Codes of an image, computed apart."""
    (pixels,) = read_pixels(data, [size], "crop", ImageLimits())
    return tokenizers[1].encode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].contiguous())[0].tolist()


@pytest.fixture(scope="module")
def wanted(tokenizers):
    """The documents that each of the sources below holds."""
    a, b, c = (codes(tokenizers, data) for data in (A, B, C))
    return [
        ("image", ["a red square", "一个红色的方块"], a),
        ("image", ["a blue circle"], b),
        ("text", "the colour red"),
        ("parts", ["a picture", a, "of the colour", c]),
    ]


PARTS = ["a picture", {"image": "a.png"}, {"text": "of the colour"}, {"image": "c.png"}]
JSONL = [
    {"image": "a.png", "captions": ["a red square", {"text": "一个红色的方块"}]},
    {"image": "b.png", "caption": "a blue circle", "other": 1},
    {"text": "the colour red"},
    {"parts": PARTS},
]
FILES = {"a.png": A, "b.png": B, "c.png": C}
MEMBERS = [
    ("x/1.jpg.png", b"read by nobody, but an image by its ending"),
    ("x/1.png", A),
    ("x/1.txt", b"json wins over this"),
    ("x/1.json", json.dumps({"captions": JSONL[0]["captions"]}).encode()),
    ("x/2.cls", b"7"),
    ("x/2.PNG", B),
    ("x/2.txt", b"a blue circle\n"),
    ("3.json", b'{"text": "the colour red"}'),
    ("4.0.png", A),
    ("4.c.png", C),
    ("4.json", json.dumps({"parts": [*PARTS[:1], {"image": "0.png"}, PARTS[2], {"image": "c.png"}]}).encode()),
]


def write_parquet(path, hugging_face=False, **options):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if hugging_face else pa.binary()

    def wrap(data):
        return {"bytes": data, "path": "x.png"} if hugging_face and data else data

    parts = [{"text": "a picture"}, {"image": wrap(A)}, {"text": "of the colour"}, {"image": wrap(C)}]
    schema = pa.schema(
        {
            "image": image,
            "captions": pa.list_(pa.string()),
            "text": pa.string(),
            "parts": pa.list_(pa.struct({"text": pa.string(), "image": image})),
            "label": pa.int64(),
        }
    )
    rows = [
        {"image": wrap(A), "captions": ["a red square", "一个红色的方块"]},
        {"image": wrap(B), "captions": ["a blue circle"]},
        {"text": "the colour red"},
        {"parts": parts},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


@pytest.mark.parametrize(
    "kind", ["folder", "jsonl", "tar", "tar.gz", "tgz", "parquet", "parquet of Hugging Face", "glob", "folder of files"]
)
def test_every_kind_of_document_from_every_source(kind, tmp_path, tokenizers, wanted):
    raw = tmp_path / "raw"
    raw.mkdir()
    if kind in ("folder", "jsonl"):
        source = write_lines(raw / ("captions.jsonl" if kind == "folder" else "b.jsonl"), JSONL, FILES)
        source = raw if kind == "folder" else source
    elif kind.startswith("parquet"):
        source = write_parquet(raw / "x.parquet", "Face" in kind, row_group_size=3)
    else:
        ending = kind if kind in ("tar.gz", "tgz") else "tar"
        source = write_tar(raw / f"x.{ending}", MEMBERS, "w:gz" if "z" in ending else "w")
        source = {"glob": raw / "*.tar", "folder of files": raw}.get(kind, source)
    manifest = build(source, tmp_path / "index", tokenizers)
    assert documents(tmp_path / "index", tokenizers[0]) == wanted
    assert manifest.documents == {"image": 2, "text": 1, "interleaved": 1} and not manifest.skipped
    assert manifest.num_documents == manifest.sources[0].samples == 4 and not manifest.caption_weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.bin", "index.idx", "index.json", "raw"]


def test_folder_of_images(tmp_path, tokenizers):
    raw = tmp_path / "raw"
    for name, data in {
        "b.png": B, "b.txt": b"a blue circle\r\n", "sub/a.png": A, "sub/a.txt": b"not this",
        "sub/a.json": json.dumps({"captions": ["a red square"]}).encode(), "c.png": C, "notes.txt": b"of no image",
    }.items():  # fmt: skip
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(data)
    manifest = build(raw, tmp_path / "index", tokenizers)
    assert documents(tmp_path / "index", tokenizers[0]) == [
        ("image", ["a blue circle"], codes(tokenizers, B)),
        ("image", ["a red square"], codes(tokenizers, A)),
    ]
    reasons = {os.path.basename(entry["file"]): entry["reason"] for entry in log(tmp_path / "index")}
    assert reasons == {"c.png": "no_caption", "notes.txt": "caption_without_image"}
    assert manifest.sources[0].files == {"read": 2, "captions": 2, "left_out": 3}
    assert manifest.sources[0].unread == {"captions in a .txt beside a .json that has some": 1}
    (raw / "more.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="has images and files such as .*more.tar"):
        build(raw, tmp_path / "index", tokenizers)


def test_links_pipes_and_upper_case_in_a_folder_of_images(tmp_path, tokenizers):
    raw, other = tmp_path / "raw", tmp_path / "other"
    raw.mkdir()
    other.mkdir()
    (raw / "A.PNG").write_bytes(A)
    (raw / "A.TXT").write_bytes(b"a red square")
    (other / "b.png").write_bytes(B)
    (other / "b.txt").write_bytes(b"a blue circle")
    for name, target in (("lost.png", "nowhere"), ("x", other), ("y", other), ("loop", raw), ("z.txt", "nowhere")):
        (raw / name).symlink_to(target)
    for name in ("pipe.png", "p.txt"):
        os.mkfifo(raw / name)
    for name in ("lost.txt", "pipe.txt"):
        (raw / name).write_bytes(b"red")
    for name in ("p.png", "z.png"):
        (raw / name).write_bytes(A)
    for workers in (0, 1):
        manifest = build(raw, tmp_path / "index", tokenizers, workers=workers, overwrite=True)
        assert [document[1] for document in documents(tmp_path / "index", tokenizers[0])] == [
            ["a red square"],
            ["a blue circle"],
        ]
        reasons = {os.path.basename(entry["file"]): entry["reason"] for entry in log(tmp_path / "index")}
        assert reasons == {"lost.png": "missing_image", "pipe.png": "unreadable_image", "p.png": "no_caption",
                           "z.png": "no_caption"}  # fmt: skip
        assert len(manifest.sources[0].sha256) == 64


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, tokenizers, monkeypatch):
    scan = os.scandir

    def deny(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    (tmp_path / "raw" / "closed").mkdir(parents=True)
    (tmp_path / "raw" / "a.png").write_bytes(A)
    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(PermissionError, match="closed"):
        build(tmp_path / "raw", tmp_path / "index", tokenizers)


def test_json_beside_an_image_holds_captions_alone(tmp_path, tokenizers):
    for name, fields in {"a": {"caption": "red", "low": "b.png"}, "b": {"parts": ["red"], "caption": "red"}}.items():
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{name}.png").write_bytes(A)
        (tmp_path / "raw" / f"{name}.json").write_text(json.dumps(fields))
    said: list[str] = []
    assert build(tmp_path / "raw", tmp_path / "index", tokenizers, said.append).skipped == {"bad_record": 1}
    assert [text for text in said if "low-resolution" in text] == [
        "there are low-resolution images, which are not used without --low-resolution"
    ]
    with pytest.raises(ValueError, match="skipped {'bad_record': 2}"):
        build(tmp_path / "raw", tmp_path / "pairs", tokenizers, low_resolution=LOW)


def test_plain_text(tmp_path, tokenizers):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffthe colour red\r\n\n  \na square\nblue red\nof the colour".encode())
    build(path, tmp_path / "index", (tokenizers[0], None))
    assert documents(tmp_path / "index", tokenizers[0]) == [
        ("text", text) for text in ("the colour red", "a square", "blue red", "of the colour")
    ]
    assert Store(tmp_path / "index").num_codes == 0


def test_pairs(tmp_path, tokenizers):
    """The low-resolution image is given, or made from the image."""
    small = picture(9, (4, 4))
    lines = [{"image": "a.png", "caption": "a red square"}, {"image": "a.png", "caption": "a circle", "low": "low.png"}]
    jsonl = write_lines(tmp_path / "x.jsonl", lines, {"a.png": A, "low.png": small})
    tar = write_tar(
        tmp_path / "x.tar",
        {"1.png": A, "1.txt": b"a red square", "2.png": A, "2.low.png": small, "2.txt": b"a circle"},
    )
    pq.write_table(
        pa.table({"image": [A, A], "caption": ["a red square", "a circle"], "low": [None, small]}),
        tmp_path / "x.parquet",
    )
    wanted = [
        ("pair", ["a red square"], codes(tokenizers, A, LOW), codes(tokenizers, A)),
        ("pair", ["a circle"], codes(tokenizers, small, LOW), codes(tokenizers, A)),
    ]
    for source in (jsonl, tar, tmp_path / "x.parquet"):
        manifest = build(source, tmp_path / "index", tokenizers, low_resolution=LOW, overwrite=True)
        assert documents(tmp_path / "index", tokenizers[0]) == wanted
        assert manifest.image_tokenizer.low_grid == (1, 1) and manifest.image_tokenizer.low_resolution == LOW
        said: list[str] = []
        manifest = build(source, tmp_path / "plain", tokenizers, said.append, overwrite=True)
        assert sum("low-resolution images, which are not used" in text for text in said) == 1
        assert manifest.documents == {"image": 2} and manifest.image_tokenizer.low_grid is None


def test_caption_weights(tmp_path, tokenizers):
    lines = [
        {"text": "the colour"},
        {"image": "a.png", "captions": ["a red square", {"text": "a circle", "weight": 3}], "short": "red"},
        {"image": "a.png", "dense": ["a red square of the colour"], "short": None},
    ]
    source = write_lines(tmp_path / "x.jsonl", lines, {"a.png": A})
    manifest = build(
        source, tmp_path / "index", tokenizers, captions=(("captions", 0.5), ("short", None), ("dense", 2))
    )
    store = Store(tmp_path / "index")
    assert manifest.caption_weights and store.weights is not None
    assert store.weights.tolist() == [1, 0.5, 1.5, 1, 1, 2, 1]  # of captions and, always 1, of texts and images
    assert "weights.npy" in index_bytes(tmp_path / "index") and not manifest.skipped
    build(source, tmp_path / "plain", tokenizers, captions=(("short", None), ("dense", None)))
    assert Store(tmp_path / "plain").weights is None and "weights.npy" not in index_bytes(tmp_path / "plain")


def test_weights_that_float32_does_not_hold(tmp_path, tokenizers):
    for weight in (1e39, 1e-60, float("nan"), -1, 0):
        with pytest.raises(ValueError, match="the weight of caption is .*from 1e-30 to 1e[+]30"):
            build(tmp_path, tmp_path / "index", tokenizers, captions=(("caption", weight),))
    lines = [{"image": "a.png", "caption": {"text": "red", "weight": weight}} for weight in (1e20, 1.0, 1e-20)]
    source = write_lines(tmp_path / "x.jsonl", lines, {"a.png": A})
    manifest = build(source, tmp_path / "index", tokenizers, captions=(("caption", 1e15),))
    assert manifest.skipped == {"bad_record": 1} and manifest.num_documents == 2
    assert (
        log(tmp_path / "index")[0]["detail"]
        == '"caption" has the weight 1e+20 x 1e+15, which is not from 1e-30 to 1e+30'
    )
    assert np.isfinite(Store(tmp_path / "index").weights).all() and (Store(tmp_path / "index").weights > 0).all()


def test_a_misspelt_caption_field_is_told(tmp_path, tokenizers):
    source = write_lines(tmp_path / "x.jsonl", [{"image": "a.png", "short": "red"}], {"a.png": A})
    said: list[str] = []
    build(source, tmp_path / "index", tokenizers, said.append, captions=(("short", None), ("dnese", 2)))
    assert "no image has a caption in 'dnese'; is --captions as it was meant?" in said


def test_columns_by_name(tmp_path, tokenizers):
    pq.write_table(
        pa.table({"picture": [A, None], "text": ["a red square", None], "article": [None, "the colour red"]}),
        tmp_path / "x.parquet",
    )
    options = {"image_column": "picture", "captions": (("text", None),), "text_column": "article"}
    build(tmp_path / "x.parquet", tmp_path / "index", tokenizers, **options)
    assert documents(tmp_path / "index", tokenizers[0]) == [
        ("image", ["a red square"], codes(tokenizers, A)),
        ("text", "the colour red"),
    ]
    with pytest.raises(ValueError, match=r"x.parquet has the columns picture, .*--image-column"):
        build(tmp_path / "x.parquet", tmp_path / "other", tokenizers, text_column="none")
    (tmp_path / "a.txt").write_text("red")
    inputs = [tmp_path / "a.txt", tmp_path / "x.parquet"]
    for changes, message in (
        ({"text_column": "none"}, "picture, text, article; --text-column is none, which is not among them"),
        ({"low_resolution": LOW, "low_column": "small"}, "--low-column is small, which is not among them"),
        ({"captions": (("dense", None),)}, "picture, text, article; wanted is one of --captions dense"),
        ({"captions": (("text", None), ("dnese", 2))}, "--captions names dnese, which none of the parquet files has"),
    ):
        with pytest.raises(ValueError, match=message):
            build(inputs, tmp_path / "other", tokenizers, **options | changes)
        assert not list(tmp_path.glob("other*")), "nothing was done before it was noticed"


def test_the_same_bytes_as_megatron_core(tmp_path, tokenizers, index):
    """Its builder, fed with what its reader gives back."""
    for prefix in (index, tmp_path / "many"):
        if not index_bytes(prefix):
            lines = write_lines(tmp_path / "x.jsonl", JSONL * 5, FILES)
            build(lines, prefix, tokenizers, low_resolution=LOW, workers=2)
        read = IndexedDataset(str(prefix), multimodal=True)
        builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32, multimodal=True)
        ends = read.document_indices.tolist()
        for first, end in zip(ends, ends[1:], strict=False):
            sequences, modes = zip(*(read[number] for number in range(first, end)), strict=True)
            builder.add_document(np.concatenate(sequences), [len(sequence) for sequence in sequences], list(modes))
        builder.finalize(str(tmp_path / "theirs.idx"))
        assert index_bytes(tmp_path / "theirs") == {name: index_bytes(prefix)[name] for name in ("bin", "idx")}


def test_workers_and_batches_do_not_change_the_files(tmp_path, tokenizers):
    bad = [{"image": "lost.png", "caption": "a square"}, b"no json", {"image": "a.png", "captions": ["", "red"]}]
    jsonl = write_lines(tmp_path / "x.jsonl", [*JSONL, *bad] * 4, FILES)
    tar = write_tar(
        tmp_path / "x.tar",
        [(f"{i}{name}" if name[0] == "." else f"{i}x{name}", data) for i in range(4) for name, data in MEMBERS[1:]],
    )
    for source in (jsonl, tar, write_parquet(tmp_path / "x.parquet")):
        first = None
        for workers, batch_size in ((0, 1), (0, 3), (0, 64), (1, 2), (2, 5)):
            (tmp_path / "out").mkdir(exist_ok=True)
            options = {"workers": workers, "batch_size": batch_size, "low_resolution": LOW}
            build(source, tmp_path / "out" / f"{workers}_{batch_size}", tokenizers, **options)
            files = contents(tmp_path / "out")
            files = {name.partition(".")[2]: data for name, data in files.items() if not name.endswith("json")}
            first = first or files
            assert files == first and len(first) >= 2
            for path in (tmp_path / "out").iterdir():
                path.unlink()


def test_inputs_that_are_none(tmp_path, tokenizers):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("a,b")
    (tmp_path / "a.txt").write_text("the colour")
    (tmp_path / "link.txt").symlink_to("a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / os.fsdecode(b"\xe9.txt")).write_text("the colour")
    (tmp_path / "both").mkdir()
    for name in ("captions.jsonl", "more.tar"):
        (tmp_path / "both" / name).touch()
    for given, message in (
        ("nowhere", "nowhere does not exist"),
        ("*.tar", r"\*.tar matches no file"),
        ("empty", "empty has no captions.jsonl, no images, and no .tar"),
        ("a.csv", "a.csv is of no known kind; known are folders and .jsonl"),
        (["a.txt", "a.*t"], "a.txt is given twice$"),
        (["a.txt", "link.txt"], "link.txt is given twice, as .*a.txt and through a link"),
        ("pipe.txt", "pipe.txt is not a regular file"),
        (b"\xe9.txt", r"xe9|udce9.* has a name that is not UTF-8"),
        ("both", "both has captions.jsonl and files such as .*more.tar"),
    ):
        inputs = [tmp_path / os.fsdecode(name) for name in (given if isinstance(given, list) else [given])]
        with pytest.raises(ValueError, match=message):
            build(inputs, tmp_path / "out" / "index", (tokenizers[0], None))
    with pytest.raises(ValueError, match="no input was given"):
        build([], tmp_path / "out" / "index", (tokenizers[0], None))
    assert not (tmp_path / "out").exists()
