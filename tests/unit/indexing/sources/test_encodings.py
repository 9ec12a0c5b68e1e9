"""Byte order marks, other encodings, and nulls among captions, wherever texts are read."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.raw import build, documents, log, picture, write_lines, write_tar

BOM = b"\xef\xbb\xbf"
TEXTS = [b'{"text": "the colour red"}\n', b'{"text": "a square"}\n']


def texts(prefix, tokenizers):
    return [document[1] for document in documents(prefix, tokenizers[0])]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_files_that_were_joined(end, tmp_path, tokenizers):
    """Each began with a mark; the batches before and behind are as without."""
    for name, lines in (("x.jsonl", TEXTS), ("x.txt", [b"the colour red\n", b"a square\n"])):
        lines = [line.replace(b"\n", end) for line in lines]
        (tmp_path / name).write_bytes((BOM + b"".join(lines)) * 3 + BOM + BOM + lines[0] + BOM + end + BOM)
        manifest = build(tmp_path / name, tmp_path / "index", (tokenizers[0], None), overwrite=True)
        assert texts(tmp_path / "index", tokenizers) == ["the colour red", "a square"] * 3 + ["the colour red"]
        assert not manifest.skipped
        (tmp_path / name).write_bytes(BOM + lines[0] + b"\xff" + end + BOM + lines[1])  # line by line
        manifest = build(tmp_path / name, tmp_path / "index", (tokenizers[0], None), overwrite=True)
        assert texts(tmp_path / "index", tokenizers) == ["the colour red", "a square"]
        assert manifest.skipped == {"invalid_utf8": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["x.txt", "x.jsonl"])
def test_other_encodings_are_no_texts(encoding, name, tmp_path, tokenizers):
    (tmp_path / name).write_bytes('{"text": "the colour red"}\n{"text": "a square"}\n'.encode(encoding))
    with pytest.raises(ValueError, match="nothing was indexed from .*invalid_utf8"):
        build(tmp_path / name, tmp_path / "index", (tokenizers[0], None))
    entry = json.loads((tmp_path / "index.nothing_indexed.jsonl").read_text().splitlines()[0])
    assert "UTF-16" in entry["detail"] or "UTF-32" in entry["detail"] or "NUL" in entry["detail"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_sidecars(kind, tmp_path, tokenizers):
    beside = {
        "bom": ("txt", BOM + b"red\r\n"), "bom_json": ("json", BOM + b'{"caption": "blue"}\r\n'),
        "le": ("txt", "red".encode("utf-16")), "be": ("json", b"\xfe\xff" + '{"caption": "r"}'.encode("utf-16-be")),
        "wide": ("txt", "red".encode("utf-32")), "nul": ("txt", "red".encode("utf-16-le")),
    }  # fmt: skip
    members = [
        item
        for key, (ending, data) in beside.items()
        for item in ((f"{key}.png", picture()), (f"{key}.{ending}", data))
    ]
    source = tmp_path / "raw"
    source.mkdir()
    if kind == "tar":
        source = write_tar(source / "x.tar", members)
    else:
        for name, data in members:
            (source / name).write_bytes(data)
    manifest = build(source, tmp_path / "index", tokenizers)
    assert texts(tmp_path / "index", tokenizers) == [["red"], ["blue"]]
    assert manifest.skipped == {"invalid_utf8": 4}
    details = "\n".join(entry["detail"] for entry in log(tmp_path / "index"))
    assert [details.count(text) for text in ("it is UTF-16, not UTF-8", "it is UTF-32", "NUL characters")] == [2, 1, 1]


NULLS = {  # captions, what is left of them, how many are dropped
    "list": (["red", None, "blue"], ["red", "blue"], 1),
    "objects": ([{"text": None}, {"text": "red", "weight": 2}, {"text": None, "weight": 3}], ["red"], 2),
    "nan": (["red", float("nan")], ["red"], 1),
    "nan_text": ([{"text": float("nan")}, "red"], ["red"], 1),
}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("kind", ["jsonl", "tar", "folder"])
def test_a_null_among_captions_costs_itself_alone(name, kind, tmp_path, tokenizers):
    captions, wanted, dropped = NULLS[name]
    source = tmp_path / "raw"
    source.mkdir()
    if kind == "jsonl":
        source = write_lines(source / "x.jsonl", [{"image": "a.png", "captions": captions}], {"a.png": picture()})
    elif kind == "tar":
        source = write_tar(
            source / "x.tar", {"a.png": picture(), "a.json": json.dumps({"captions": captions}).encode()}
        )
    else:
        (source / "a.png").write_bytes(picture())
        (source / "a.json").write_text(json.dumps({"captions": captions}))
    manifest = build(source, tmp_path / "index", tokenizers)
    assert texts(tmp_path / "index", tokenizers) == [wanted] and manifest.skipped == {"null_caption_dropped": 1}
    assert log(tmp_path / "index")[0]["detail"] == f"{dropped} of {len(captions)} captions; the sample is kept"


def test_nulls_in_parquet(tmp_path, tokenizers):
    struct = pa.struct({"text": pa.string(), "weight": pa.float64()})
    schema = pa.schema({"image": pa.binary(), "captions": pa.list_(struct), "caption": pa.string()})
    rows = [
        {"image": picture(), "captions": [{"text": "red"}, None, {"text": None, "weight": 2.0}]},
        {"image": picture(), "captions": [None, {"text": None}], "caption": "blue"},
        {"image": picture(), "captions": [None, {"text": None}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "x.parquet")
    manifest = build(tmp_path / "x.parquet", tmp_path / "index", tokenizers)
    assert texts(tmp_path / "index", tokenizers) == [["red"], ["blue"]]
    assert manifest.skipped == {"null_caption_dropped": 2, "no_caption": 1}


def test_nothing_but_nulls_is_no_caption(tmp_path, tokenizers):
    lines = [b'{"image": "a.png", "captions": [null, null]}', b'{"image": "a.png", "caption": NaN}',
             b'{"image": "a.png", "caption": {"text": null}}',
             b'{"image": "a.png", "caption": NaN, "captions": ["red"]}',
             b'{"image": NaN, "text": "a square"}']  # fmt: skip
    source = write_lines(tmp_path / "x.jsonl", lines, {"a.png": picture()})
    manifest = build(source, tmp_path / "index", tokenizers)
    assert manifest.skipped == {"no_caption": 3} and manifest.documents == {"image": 1, "text": 1}
    assert "nothing but null (2) in captions or caption" in log(tmp_path / "index")[0]["detail"]
