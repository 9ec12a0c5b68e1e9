"""What cannot be used is left out and counted with its reason, or an error where that is asked for."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars_megatron.data.store import Store
from mars_megatron.indexing.records import KEPT
from mars_megatron.indexing.sources import lines as lines_module
from tests.support.odd_pictures import odd_pictures
from tests.support.raw import build, documents, image_bytes, log, picture, write_lines, write_tar

GOOD = {"image": "good.png", "caption": "a red square"}
ODD = odd_pictures()
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]


def bomb():
    """A PNG of 40,000 x 40,000 pixels in a few bytes; nothing after its header is right."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


IMAGES = {
    "unreadable_image": {
        "cut.jpg": picture(0, (64, 64), "jpg")[:700], "cut.png": picture(0, (64, 64))[:700], "empty.png": b"",
        "text.png": b"no picture at all",
        "nan.tif": image_bytes(Image.new("F", (8, 8), float("nan")), "tif"),
    },
    "unsupported_format": {
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(99),
    },
    "unsupported_pixels": {"odd.tga": ODD["32_odd_alpha.tga"].data, "pq.png": ODD["cicp_pq.png"].data},
    "unknown_range": {"float.tif": ODD["float_unit.tif"].data},
    "unknown_colours": {"inks.jpg": ODD["inks_unsaid.jpg"].data},
    "animated_image": {
        "a.gif": image_bytes(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]),
        "a.webp": image_bytes(FRAMES[0], "webp", save_all=True, append_images=FRAMES[1:]),
        "a.png": image_bytes(FRAMES[0], "png", save_all=True, append_images=FRAMES[1:]),
        "a.tif": image_bytes(FRAMES[0], "tif", save_all=True, append_images=FRAMES[1:]),
    },
    "too_large": {"bomb.png": bomb(), "long.bmp": picture(0, (400, 400), "bmp")},
    "too_small": {"dot.png": picture(0, (1, 1)), "line.png": picture(0, (50, 1))},
}  # fmt: skip
# reason -> lines of JSONL
LINES = {
    "bad_record": [
        b"{not json", b"[1]", b"7", b"nul", b"[" * 100_000, b'{"a": ' * 100_000, b'{"text": "a"} {"text": "b"}',
        b'{"n": ' + b"9" * 10_000 + b"}",
        {"image": 7, "caption": "a"}, {"image": "", "caption": "a"}, {"image": "a\0b", "caption": "a"},
        {"text": 7}, {"other": 1}, {"image": "good.png", "caption": 7}, {"image": "good.png", "captions": [["a"]]},
        {"image": "good.png", "captions": {"text": 1}},
        *({"image": "good.png", "captions": [{"text": "a", "weight": w}]} for w in (0, -1, "2", True, [], 1e300)),
        b'{"image": "good.png", "captions": [{"text": "a", "weight": NaN}]}',
        {"parts": []}, {"parts": "a"}, {"parts": [7]}, {"parts": [{}]}, {"parts": [{"text": "a", "image": "b"}]},
        {"parts": [{"text": 7}]}, {"parts": [{"image": 7}]},
    ],
    "invalid_utf8": [
        b'{"text": "\xff"}', b'{"text": "\\ud800 a"}', b'{"text": "\xed\xa0\x80"}',
        '{"text": "a"}'.encode("utf-16"),
        b'{"image": "good.png", "captions": ["red", "\\udc00"]}', b'{"image": "\\ud800.png", "caption": "red"}',
        b'{"parts": ["\\ud800"]}',
    ],
    "empty_caption": [{"image": "good.png", "captions": ["", " \n"]}, {"image": "good.png", "caption": ""}],
    "no_caption": [{"image": "good.png"}, {"image": "good.png", "captions": None},
                   {"image": "good.png", "captions": []}],
    "no_image": [{"caption": "a red square"}, {"image": None, "captions": ["a"]}],
    "empty_text": [{"text": ""}, {"text": "\u3000 \t"}, {"parts": ["", {"text": " "}]}],
    "empty_caption_dropped": [{"image": "good.png", "captions": ["a red square", ""]}],
    "empty_part_dropped": [{"parts": ["a", ""]}],
    "long_caption": [{"image": "good.png", "caption": "a red square " * 8000}],
    "long_caption_dropped": [{"image": "good.png", "captions": ["red " * 2000, "a red square"]}],
    "long_text": [{"text": "the colour " * 5000}, {"parts": ["a", "the colour " * 5000]}],
    "missing_image": [
        {"image": "none.png", "caption": "a"}, {"image": "x" * 5000, "caption": "a"},
        {"parts": [{"image": "none.png"}]},
        {"image": "good.png/inside", "caption": "a"},
    ],
    "unsafe_name": [
        {"image": "../good.png", "caption": "a"}, {"image": "/etc/passwd", "caption": "a"},
        {"image": "a/../../good.png", "caption": "a"}, {"parts": [{"image": ".."}]},
    ],
}  # fmt: skip
LIMITS = {"max_bytes": 200_000}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_lines(tmp_path, tokenizers, workers):
    bad = [(reason, line) for reason, group in LINES.items() for line in group]
    lines = [line for _, line in bad for line in (line, GOOD)]
    source = write_lines(tmp_path / "raw" / "x.jsonl", lines, {"good.png": picture()})
    manifest = build(source, tmp_path / "index", tokenizers, workers=workers, **LIMITS)
    entries = log(tmp_path / "index")
    assert [(entry["line"], entry["reason"]) for entry in sorted(entries, key=lambda entry: entry["line"])] == [
        (2 * number + 1, reason) for number, (reason, _) in enumerate(bad)
    ]
    assert manifest.skipped == {reason: len(group) for reason, group in LINES.items()} == manifest.sources[0].skipped
    kept = sum(reason in KEPT for reason, _ in bad)
    assert manifest.num_documents == manifest.sources[0].samples == len(bad) + kept
    assert all(entry["file"] == str(source) and entry["detail"] for entry in entries)
    assert len(Store(tmp_path / "index").boundaries) == len(bad) + kept + 1


@pytest.mark.parametrize("kind", ["jsonl", "tar", "parquet"])
def test_bad_images(tmp_path, tokenizers, kind):
    raw = tmp_path / "raw"
    images = {name: data for group in IMAGES.values() for name, data in group.items()}
    good = {f"good{number}.png": picture() for number in range(len(images))}
    every = {name: data for pair in zip(images.items(), good.items(), strict=True) for name, data in pair}
    if kind == "jsonl":
        source = write_lines(raw / "x.jsonl", [{"image": name, "caption": "a red square"} for name in every], every)
    elif kind == "tar":
        members = []
        for number, (name, data) in enumerate(every.items()):
            members += [(f"{number}.{name.partition('.')[2]}", data), (f"{number}.txt", b"a red square")]
        source = write_tar(raw / "x.tar", members)
    else:
        source = raw / "x.parquet"
        raw.mkdir()
        pq.write_table(pa.table({"image": list(every.values()), "caption": ["a red square"] * len(every)}), source)
    manifest = build(source, tmp_path / "index", tokenizers, **LIMITS)
    assert manifest.skipped == {reason: len(group) for reason, group in IMAGES.items()}
    assert manifest.documents == {"image": len(good)}
    with pytest.raises(ValueError, match=r"x\.\w+ (line|key|row) \d+: unreadable_image: .*\(--strict\)"):
        build(source, tmp_path / "strict", tokenizers, strict=True, workers=1, **LIMITS)
    assert not list(tmp_path.glob("strict*"))


def test_strict_names_every_reason(tmp_path, tokenizers):
    for number, (reason, group) in enumerate(LINES.items()):
        source = write_lines(tmp_path / f"{number}.jsonl", [GOOD, group[0]], {"good.png": picture()})
        with pytest.raises(ValueError, match=rf"{number}.jsonl line 2: {reason}: "):
            build(source, tmp_path / "index", tokenizers, strict=True, **LIMITS)
    assert not list(tmp_path.glob("index*"))


def test_bad_members_of_a_tar(tmp_path, tokenizers):
    source = write_tar(
        tmp_path / "x.tar",
        [
            ("ok.png", picture(1)), ("ok.txt", b"a red square"),
            ("../up.png", picture()), ("../up.txt", b"a"),
            ("/root.png", picture()), ("/root.txt", b"a"),
            ("no_caption.png", picture()),
            ("no_image.txt", b"a"),
            ("utf.png", picture()), ("utf.txt", b"\xff"),
            ("json.png", picture()), ("json.json", b"{"),
            ("ok.png", picture(2)), ("ok.txt", b"not adjacent: the first one counts"),
            ("twice.png", picture()), ("twice.txt", b"a blue circle"), ("twice.png", picture()), ("twice.txt", b"a"),
            ("parts.json", b'{"parts": [{"image": "1.png"}]}'),
            ("README", b"has no ending"),
            ("big.png", bytes(LIMITS["max_bytes"] + 1)), ("big.txt", b"a"),
            ("empty.png", picture()), ("empty.txt", b" \n"),
        ],
    )  # fmt: skip
    manifest = build(source, tmp_path / "index", tokenizers, **LIMITS)
    assert manifest.skipped == {
        "unsafe_name": 2, "no_caption": 1, "no_image": 1, "invalid_utf8": 1, "bad_record": 2, "duplicate_key": 2,
        "missing_image": 1, "too_large": 1, "empty_caption": 1,
    }  # fmt: skip
    assert [document[1] for document in documents(tmp_path / "index", tokenizers[0])] == [
        ["a red square"],
        ["a blue circle"],
    ]
    assert {entry["key"] for entry in log(tmp_path / "index") if entry["reason"] == "unsafe_name"} == {"../up", "/root"}


def test_links_in_a_tar(tmp_path, tokenizers):
    import tarfile

    (tmp_path / "secret.png").write_bytes(picture())
    path = write_tar(tmp_path / "x.tar", {"a.png": picture(), "a.txt": b"a red square"})
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(info)
    assert build(path, tmp_path / "index", tokenizers).skipped == {"bad_record": 3}


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_tar(tmp_path, tokenizers, compressed):
    """What came before the cut is kept, wherever it is."""
    members = [
        (f"{number}.{ending}", data)
        for number in range(6)
        for ending, data in (("png", picture(number, (16, 16))), ("txt", b"a red square"))
    ]
    data = write_tar(tmp_path / "whole.tar", members).read_bytes()
    assert not build(tmp_path / "whole.tar", tmp_path / "whole", tokenizers).skipped
    whole = documents(tmp_path / "whole", tokenizers[0])
    length = len(data.rstrip(b"\0"))
    if compressed:
        data = gzip.compress(data)
        length = len(data)
    path = tmp_path / ("x.tar.gz" if compressed else "x.tar")
    for cut in (length * 9 // 10, length // 2, length // 3 + 100, length - 1):
        path.write_bytes(data[:cut])
        manifest = build(path, tmp_path / "index", tokenizers, overwrite=True)
        assert manifest.skipped.pop("truncated_tar") == 1 and set(manifest.skipped) <= {"no_caption"}
        found = documents(tmp_path / "index", tokenizers[0])
        assert found == whole[: len(found)] and 0 < len(found) <= 6
        with pytest.raises(ValueError, match="truncated_tar"):
            build(path, tmp_path / "strict", tokenizers, strict=True)
    for data in (b"", b"no tar at all" * 100, bytes(100)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="nothing was indexed from .*truncated_tar"):
            build(path, tmp_path / "index", tokenizers, overwrite=True)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_joined_to_one_file(tmp_path, tokenizers, mode):
    whole = [
        write_tar(tmp_path / f"{number}.tar", {f"{number}.png": picture(number), f"{number}.txt": b"red"}, mode)
        for number in range(2)
    ]
    source = tmp_path / "x.tar"
    source.write_bytes(b"".join(path.read_bytes() for path in whole))
    manifest = build(source, tmp_path / "index", tokenizers)
    assert manifest.skipped == {"trailing_data": 1} and manifest.num_documents == 1
    assert "end mark that follows 0.txt" in log(tmp_path / "index")[0]["detail"]
    for compression in ("gz", "bz2", "xz"):
        write_tar(source, {"0.png": picture(), "0.txt": b"red"}, f"w:{compression}")
        assert not build(source, tmp_path / "index", tokenizers, overwrite=True).skipped
    if mode == "w":  # zeros are but the rest of a block
        source.write_bytes(whole[0].read_bytes() + bytes(100_000))
        assert not build(source, tmp_path / "other", tokenizers).skipped


def test_texts_that_are_too_long_by_far_are_not_tokenised(tmp_path, tokenizers, monkeypatch):
    longest = 0
    encode_batch = type(tokenizers[0]).encode_batch

    def encode(self, texts):
        nonlocal longest
        longest = max([longest, *map(len, texts)])
        return encode_batch(self, texts)

    monkeypatch.setattr(type(tokenizers[0]), "encode_batch", encode)
    long = "red " * 1000
    alone = write_lines(tmp_path / "alone.jsonl", [{"text": "red"}, {"text": long}, {"text": " " * 4000}])
    lines = [{"text": long}, {"image": "a.png", "captions": ["red", long]}, {"image": "a.png", "caption": long},
             {"parts": ["red", long]}, {"parts": ["red", " " * 4000]}]  # fmt: skip
    mixed = write_lines(tmp_path / "mixed.jsonl", lines, {"a.png": picture()})
    limits = {"max_text_tokens": 10, "max_caption_tokens": 9}
    assert build(alone, tmp_path / "a", (tokenizers[0], None), **limits).skipped == {"long_text": 2}
    manifest = build(mixed, tmp_path / "m", tokenizers, **limits)
    assert manifest.skipped == {
        "long_text": 2, "long_caption": 1, "long_caption_dropped": 1, "empty_part_dropped": 1
    }  # fmt: skip
    assert longest == 3


def test_damaged_parquet(tmp_path, tokenizers):
    path = tmp_path / "x.parquet"
    rows = {"text": [f"the colour red {'square ' * (i % 9)}" for i in range(5000)]}
    pq.write_table(pa.table(rows), path, row_group_size=1000, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    manifest = build(path, tmp_path / "index", (tokenizers[0], None))
    assert manifest.skipped and set(manifest.skipped) <= {"unreadable_file", "invalid_utf8"}
    assert 1000 <= manifest.num_documents < 5000
    path.write_bytes(data[:middle])
    with pytest.raises(ValueError, match="nothing was indexed from .*unreadable_file"):
        build(path, tmp_path / "other", (tokenizers[0], None))


def test_parquet_rows(tmp_path, tokenizers):
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "caption": pa.string()})
    rows = [
        {"image": {"bytes": picture(), "path": None}, "caption": "a red square"},
        {"image": {"bytes": None, "path": "a.png"}, "caption": "a red square"},
        {"image": {"bytes": picture(), "path": None}, "caption": None},
        {"image": None, "caption": "a red square"},
        {"image": None, "caption": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "x.parquet")
    manifest = build(tmp_path / "x.parquet", tmp_path / "index", tokenizers)
    assert manifest.skipped == {"missing_image": 1, "no_caption": 1, "no_image": 1, "bad_record": 1}
    raw = pa.StringArray.from_buffers(3, pa.py_buffer(struct.pack("<4i", 0, 3, 4, 7)), pa.py_buffer(b"red\xffred"))
    pq.write_table(pa.table({"text": raw}), tmp_path / "y.parquet")
    manifest = build(tmp_path / "y.parquet", tmp_path / "text", (tokenizers[0], None))
    assert manifest.skipped == {"invalid_utf8": 1} and manifest.num_documents == 2


def test_too_long_line(tmp_path, tokenizers, monkeypatch):
    """It is not held in memory, and the lines around it are read."""
    monkeypatch.setattr(lines_module, "MAX_LINE", 1000)
    monkeypatch.setattr(lines_module, "BLOCK", 100)
    for end in (b"", b"\n"):
        good, long = b'{"text": "the colour red"}\n', b'{"text": "' + b"a" * 5000 + b'"}'
        path = tmp_path / "x.jsonl"
        path.write_bytes(good + long + b"\n" + good * 2 + b'{"text": "' + b"a " * 300 + b'"}\n' + good + long + end)
        manifest = build(path, tmp_path / "index", (tokenizers[0], None), overwrite=True)
        assert [(entry["line"], entry["reason"]) for entry in log(tmp_path / "index")] == [
            (2, "bad_record"),
            (7, "bad_record"),
        ]
        assert manifest.documents == {"text": 5}


def test_nothing_indexed(tmp_path, tokenizers):
    source = write_lines(tmp_path / "x.jsonl", [{"image": "none.png", "caption": "a"}])
    with pytest.raises(ValueError, match="nothing was indexed from .*x.jsonl: skipped {'missing_image': 1}, see"):
        build(source, tmp_path / "out" / "index", tokenizers)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.nothing_indexed.jsonl"]
    source.write_bytes(b"\n \n")
    with pytest.raises(ValueError, match="it has no samples"):
        build(source, tmp_path / "other" / "index", tokenizers)
    assert not list((tmp_path / "other").iterdir())


def test_images_without_a_tokenizer(tmp_path, tokenizers, folder):
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"captions.jsonl line \d+ has an image; give an image tokenizer"):
            build(folder, tmp_path / "index", (tokenizers[0], None), workers=workers)
    lines = write_lines(tmp_path / "x.jsonl", [{"parts": [{"image": "a.png"}]}])
    with pytest.raises(ValueError, match="line 1 has an image; give an image tokenizer"):
        build(lines, tmp_path / "index", (tokenizers[0], None))
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_images_outside_where_allowed(tmp_path, tokenizers):
    (tmp_path / "good.png").write_bytes(picture())
    lines = [{"image": "../good.png", "caption": "a"}, {"image": str(tmp_path / "good.png"), "caption": "a"}]
    source = write_lines(tmp_path / "raw" / "x.jsonl", lines)
    assert build(source, tmp_path / "index", tokenizers, allow_outside=True).documents == {"image": 2}


def test_log_is_json(tmp_path, tokenizers):
    """Whatever names and errors contain."""
    lines = [b'{"image": "\\ud800\\n.png", "caption": "a"}', {"image": "\x1b[0m.png", "caption": "a"}, GOOD]
    source = write_lines(tmp_path / "x.jsonl", lines, {"good.png": picture()})
    build(source, tmp_path / "index", tokenizers)
    assert [entry["reason"] for entry in log(tmp_path / "index")] == ["invalid_utf8", "missing_image"]
    json.loads((tmp_path / "index.json").read_text())
