"""Folders in the image-folder convention of Hugging Face's datasets."""

from __future__ import annotations

import csv
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mars_megatron.indexing.sources import folder_images
from tests.support.raw import LOW, build, documents, log, picture

IMAGES = {"1.png": picture(1), "2.png": picture(2), "3.png": picture(3)}


def write(folder, rows, kind="jsonl", images=IMAGES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(file.getvalue(), encoding="utf-8")
    return folder


def texts(prefix, tokenizers):
    return [document[1] for document in documents(prefix, tokenizers[0])]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "captions", "prompt"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_rows_become_images_with_captions(kind, column, given, tmp_path, tokenizers):
    rows = [{"file_name": name, column: caption, "label": 3}
            for name, caption in (("1.png", "a red square"), ("2.png", "a circle"), ("1.png", "red"))]  # fmt: skip
    raw = write(tmp_path / "raw", rows, kind)
    said = build(raw if given == "folder" else raw / f"metadata.{kind}", tmp_path / "index", tokenizers)
    assert said.documents == {"image": 3}
    assert texts(tmp_path / "index", tokenizers) == [["a red square"], ["a circle"], ["red"]]
    (source,) = said.sources
    assert f"{'key' if kind == 'jsonl' else 'column'} label" in source.unread
    if given == "folder":
        assert source.files == {"read": 3, "captions": 0, "left_out": 1} and said.skipped == {"unnamed_image": 1}
        assert log(tmp_path / "index")[0]["file"] == str(raw / "3.png")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_bad_rows_are_counted(kind, tmp_path, tokenizers):
    rows = [
        {"file_name": "1.png", "text": "a red square"},
        {"file_name": "none.png", "text": "red"},
        {"file_name": "../1.png", "text": "red"},
        {"file_name": "2.png", "text": ""},
        {"file_name": "", "text": "no name"},
        {"file_name": "3.png", "text": None},
    ]
    (tmp_path / "1.png").write_bytes(IMAGES["1.png"])
    manifest = build(write(tmp_path / "raw", rows, kind), tmp_path / "index", tokenizers)
    assert manifest.documents == {"image": 1}
    empty = {"no_caption": 2} if kind == "csv" else {"no_caption": 1, "empty_caption": 1}
    wanted = {"missing_image": 1, "unsafe_name": 1, "bad_record": 1, **empty}
    assert manifest.skipped == wanted
    assert manifest.sources[0].files == {"read": 2, "captions": 0, "left_out": 2}, "2.png and 3.png are of such rows"


def test_tables_of_a_csv(tmp_path, tokenizers):
    """A byte order mark, quotes with line breaks, values too many, and captions and names that are not UTF-8."""
    raw = write(tmp_path / "raw", [], images={"1.png": picture(1), os.fsdecode(b"\xe9.png"): picture(2)})
    (raw / "metadata.jsonl").unlink()
    lines = [b"\xef\xbb\xbffile_name,text\r\n", b'1.png,"a red,\r\nsquare"\r\n', b"1.png,red, blue\r\n", b"\r\n",
             b"\xe9.png,a circle\r\n", b"1.png,r\xe9d\r\n", b"1.png\r\n"]  # fmt: skip
    (raw / "metadata.csv").write_bytes(b"".join(lines))
    manifest = build(raw, tmp_path / "index", tokenizers)
    assert manifest.documents == {"image": 2} and manifest.skipped == {"bad_record": 2, "invalid_utf8": 1}
    assert [entry["line"] for entry in log(tmp_path / "index")] == [4, 7, 8]
    assert "3 values for 2 columns" in log(tmp_path / "index")[0]["detail"]
    assert manifest.sources[0].files == {"read": 3, "captions": 0, "left_out": 0}
    for data, message in (
        ("file_name,text\n1.png,red\n".encode("utf-16"), "metadata.csv: the file is UTF-16, not UTF-8"),
        (b"file_name;text\n1.png;red\n", "has the columns file_name;text; wanted is file_name.*separated by commas"),
        (b"name,text\n1.png,red\n", "has the columns name, text; wanted is file_name or image_file_name"),
    ):
        (raw / "metadata.csv").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            build(raw, tmp_path / "other", tokenizers)


def test_lists_of_folders_below_and_other_columns(tmp_path, tokenizers):
    raw = tmp_path / "raw"
    write(raw / "train", [{"file_name": "in/1.png", "text": "red"}], "jsonl", {"in/1.png": picture(1)})
    write(raw / "test", [{"image_file_name": "1.png", "low_file_name": "s.png", "text": "blue"}], "csv",
          {"1.png": picture(2), "s.png": picture(3, (4, 4))})  # fmt: skip
    (raw / "README.md").write_text("#")
    manifest = build(raw, tmp_path / "index", tokenizers, low_resolution=LOW)
    assert texts(tmp_path / "index", tokenizers) == [["blue"], ["red"]]
    assert manifest.documents == {"pair": 2} and manifest.skipped == {"other_file": 1}
    assert manifest.summed("files") == {"read": 5, "captions": 0, "left_out": 1}
    assert not manifest.summed("unread")
    assert {str(path.relative_to(raw)) for path in folder_images(raw)} == {"train/in/1.png", "test/1.png"}
    write(raw / "pairs", [{"input_file_name": "1.png", "target_file_name": "2.png", "text": "red"}], "csv")
    with pytest.raises(ValueError, match="--image-column NAME reads NAME_file_name"):
        build(raw / "pairs", tmp_path / "other", tokenizers)
    manifest = build(raw / "pairs", tmp_path / "other", tokenizers, image_column="target")
    assert manifest.documents == {"image": 1} and manifest.skipped == {"unnamed_image": 2}


def test_captions_that_were_asked_for(tmp_path, tokenizers):
    rows = [{"file_name": "1.png", "text": "not this", "dense": "red"}]
    for kind in ("jsonl", "csv"):
        raw = write(tmp_path / kind, rows, kind)
        build(raw, tmp_path / f"{kind}_index", tokenizers, captions=(("dense", None),))
        assert texts(tmp_path / f"{kind}_index", tokenizers) == [["red"]]
    with pytest.raises(ValueError, match="file_name, text, dense; wanted is one of --captions sparse"):
        build(tmp_path / "csv", tmp_path / "other", tokenizers, captions=(("sparse", None),))


def test_metadata_is_no_text_and_text_no_metadata(tmp_path, tokenizers):
    raw = write(
        tmp_path / "raw", [{"text": "an image of which nothing is known"}, {"file_name": "1.png", "text": "red"}]
    )
    manifest = build(raw, tmp_path / "index", tokenizers)
    assert manifest.documents == {"image": 1} and manifest.skipped["bad_record"] == 1
    lines = [{"file_name": "1.png", "text": "red"}, {"file_name": "book.pdf", "text": "the colour"},
             {"file_name": "1.heic", "text": "blue"}]  # fmt: skip
    (raw / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = build(raw / "train.jsonl", tmp_path / "other", tokenizers)
    assert manifest.documents == {"image": 1, "text": 1} and manifest.skipped == {"missing_image": 1}
    with pytest.raises(ValueError, match="has metadata.jsonl and files such as .*train.jsonl"):
        build(raw, tmp_path / "third", tokenizers)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_images_for_a_tokenizer(kind, tmp_path):
    rows = [
        {"file_name": "2.png", "text": "a"},
        {"file_name": "1.png", "text": "b"},
        {"file_name": "2.png", "text": "c"},
    ]
    raw = write(tmp_path / "raw", rows, kind)
    assert folder_images(raw) == [raw / "2.png", raw / "1.png"] and folder_images(raw, limit=1) == [raw / "2.png"]
    assert folder_images(tmp_path) == [raw / "2.png", raw / "1.png"]


def test_an_interrupted_build_of_a_folder_with_metadata_goes_on(tmp_path, tokenizers):
    raw = write(tmp_path / "raw", [{"file_name": "1.png", "text": "red"}], "csv")
    first = build(raw, tmp_path / "index", tokenizers)
    said: list[str] = []
    assert build(raw, tmp_path / "index", tokenizers, said.append) == first and "is finished" in said[0]
    (raw / "metadata.csv").write_text("file_name,text\n2.png,blue\n")
    with pytest.raises(ValueError, match="metadata.csv has changed since"):
        build(raw, tmp_path / "index", tokenizers)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("top", ["", "a"])
def test_lists_are_found_at_any_depth(kind, top, tmp_path, tokenizers):
    raw = tmp_path / "raw"
    for number, place in enumerate(dict.fromkeys((top, "a", "a/b", "a/b/c/d")), start=1):
        rows = [{"file_name": "1.png", "text": "a red square"}]
        write(raw / place, rows, kind, images={"1.png": picture(number)})
    (raw / "a" / "b" / "c" / "alone.png").write_bytes(picture(9))
    os.symlink(raw, raw / "a" / "loop")
    said = build(raw, tmp_path / "index", tokenizers)
    lists = 4 if top == "" else 3
    assert said.documents == {"image": lists} and said.skipped == {"unnamed_image": 1}
    assert said.summed("files") == {"read": 2 * lists, "captions": 0, "left_out": 1}
    assert len(folder_images(raw)) == lists


def test_parquet_rows_that_are_not_utf8_are_named(tmp_path, tokenizers):
    raw = tmp_path / "raw"
    write(raw, [{"file_name": "1.png", "text": "red"}, {"file_name": "2.png", "text": "blue"}], "parquet",
          images={"1.png": picture(1), "2.png": picture(2)})  # fmt: skip
    file = raw / "metadata.parquet"
    texts_ = pa.chunked_array([pa.array([b"\xff\xfered", b"blue"], pa.binary()).view(pa.string())])
    pq.write_table(pa.table({"file_name": ["1.png", "2.png"], "text": texts_}), file)
    said = build(raw, tmp_path / "index", tokenizers)
    assert said.documents == {"image": 1} and said.skipped["bad_record"] == 1
    assert sum(said.summed("files").values()) == 3
