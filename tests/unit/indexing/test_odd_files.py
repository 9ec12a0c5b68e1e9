"""A folder, and a tar file, of all that people have lying about: what became of each file, and numbers that add up."""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_megatron.index.manifest import Manifest
from tests.support.command_lines import load_tool
from tests.support.raw import image_bytes, log, picture, write_tar

RED = b"a red square"


def gray16():
    return image_bytes(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900))


def bomb():
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def frames(ending):
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return image_bytes(images[0], ending, save_all=True, append_images=images[1:])


MODES = {
    f"mode_{mode}.png": image_bytes(Image.new(mode, (8, 8)).convert(mode))
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA")
}
# Images that are read, by name; each has a caption.
READ = {
    **MODES,
    "cmyk.jpg": image_bytes(Image.new("CMYK", (8, 8), (9, 9, 9, 9)), "jpg"),
    "gray16.png": gray16(),
    "UPPER.PNG": picture(1),
    "a.jpg": picture(2, ending="jpg"),
    "a.png": picture(3),  # shares a.txt with a.jpg
    "photo.jpg": picture(4, ending="jpg"),  # photo.jpg.txt
    "wrong.jpg": picture(5),  # a PNG
    "dots.in.name.png": picture(6),
    "Case.png": picture(7),
    "case.png": picture(8),
    "with space.png": picture(9),
    "红.png": picture(10),
    os.fsdecode(b"latin\xe9.png"): picture(11),
    "one.gif": picture(12, ending="gif"),
    "x.webp": picture(13, ending="webp"),
    "x.bmp": picture(14, ending="bmp"),
    "x.ppm": picture(15, ending="ppm"),
    "x.tif": picture(16, ending="tif"),
    "sub/deep/d.png": picture(17),
    "json.png": picture(18),
    "bom.png": picture(19),
    "nulls.png": picture(20),
}
CAPTIONS = {
    **{
        f"{name.rpartition('.')[0]}.txt": RED
        for name in READ
        if name not in ("photo.jpg", "json.png", "UPPER.PNG", "nulls.png")
    },
    "photo.jpg.txt": RED,
    "UPPER.TXT": RED,
    "json.json": b'{"caption": "a blue circle", "licence": "?"}',
    "bom.txt": b"\xef\xbb\xbfa red square\r\n",
    "nulls.json": b'\xef\xbb\xbf{"captions": ["red", null, {"text": null}]}',
}
# Images that are left out with their captions, by the reason.
LOST = {
    "empty.png": (b"", RED, "unreadable_image"),
    "text.png": (b"no picture", RED, "unreadable_image"),
    "cut.png": (picture(0, (64, 64))[:500], RED, "unreadable_image"),
    "bomb.png": (bomb(), RED, "too_large"),
    "dot.png": (picture(0, (1, 1)), RED, "too_small"),
    "moving.gif": (frames("gif"), RED, "animated_image"),
    "moving.webp": (frames("webp"), RED, "animated_image"),
    "alone.png": (picture(), None, "no_caption"),
    "blank.png": (picture(), b" \r\n", "empty_caption"),
    "utf16.png": (picture(), "red".encode("utf-16"), "invalid_utf8"),
    "nul.png": (picture(), b"r\0e\0d\0", "invalid_utf8"),
    "latin1.png": (picture(), b"r\xe9d", "invalid_utf8"),
    "long.png": (picture(), b"red " * 3000, "long_caption"),
}
# Files that are not of a sample, by the reason.
OTHERS = {
    "b.heic": ("unread_format", b"?"), "b.txt": ("caption_without_image", RED),
    "v.svg": ("unread_format", b"<svg/>"), "v.mp4": ("unread_format", b"?"), "v.webm": ("unread_format", b"?"),
    "v.pdf": ("unread_format", b"?"), "v.strange": ("unread_format", b"?"), "noending": ("unread_format", picture()),
    "notes.txt": ("caption_without_image", b"of no image"), "info.json": ("caption_without_image", b"{}"),
    "a.png.json.bak": ("unread_format", b"{}"), "README.md": ("unread_format", b"#"),
    "sub/x.tar": ("unread_format", b""), "sub/x.parquet": ("unread_format", b""), "x.zip": ("unread_format", b""),
    "a.TXT": ("unused_caption", RED), "photo.png.old": ("unread_format", b""),
    ".hidden.png": ("hidden_file", picture()), "._a.png": ("hidden_file", b"?"), ".DS_Store": ("hidden_file", b"?"),
    "Thumbs.db": ("system_file", b"?"), "sub/desktop.ini": ("system_file", b"?"),
}  # fmt: skip
FOLDERS = {".git": ("hidden_file", 3), "__MACOSX": ("system_file", 2)}


@pytest.fixture(scope="module")
def run(text_model, image_model):
    module = load_tool("index_data")
    tokenizers = ("--text-tokenizer", text_model, "--image-tokenizer", image_model, "--resolution", 8)
    return lambda *arguments: module.main(list(map(str, (*arguments, *tokenizers, "--workers", 0, "--no-progress"))))


def write_odd_folder(folder: Path) -> int:
    """Write all of them; returns how many files there are."""
    contents = {**READ, **CAPTIONS, **{name: data for name, (_, data) in OTHERS.items()}}
    for name, (data, caption, _) in LOST.items():
        contents[name] = data
        if caption is not None:
            contents[f"{name.rpartition('.')[0]}.txt"] = caption
    for name, (_, count) in FOLDERS.items():
        contents.update({f"{name}/x/{number}.png": picture() for number in range(count)})
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "nothing" / "in").mkdir(parents=True)
    (folder / "lost.lnk").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    return len(contents) + 2


def test_every_file_of_an_odd_folder_has_one_outcome(run, tmp_path, capsys):
    folder = tmp_path / "raw"
    count = write_odd_folder(folder)
    assert count > 100
    assert run("build", "--input", folder, "--output", tmp_path / "index") == 0
    out, err = capsys.readouterr()
    assert not err
    entries = log(tmp_path / "index")
    found = {}
    for entry in entries:
        name = os.path.relpath(entry["file"].replace("\\udce9", "\udce9"), folder)
        if entry["reason"].endswith("_dropped"):
            continue
        assert name not in found, "one outcome each"
        found[name] = entry["reason"]
        found.update({caption: entry["reason"] for caption in entry.get("captions", ())})
    wanted = {name: reason for name, (reason, _) in OTHERS.items()}
    wanted |= {name: reason for name, (reason, _) in FOLDERS.items()}
    wanted |= {"lost.lnk": "not_a_file", "pipe": "not_a_file"}
    for name, (_, caption, reason) in LOST.items():
        wanted[name] = reason
        if caption is not None:
            wanted[f"{name.rpartition('.')[0]}.txt"] = reason
    assert found == wanted
    manifest = Manifest.read(tmp_path / "index.json")
    (source,) = manifest.sources
    captions = set(CAPTIONS)
    left_out = sum(1 for name in wanted if name not in FOLDERS) + sum(count for _, count in FOLDERS.values())
    assert source.files == {"read": len(READ), "captions": len(captions), "left_out": left_out}
    assert sum(source.files.values()) == count
    assert manifest.documents == {"image": len(READ)} and manifest.skipped["null_caption_dropped"] == 1
    total = f"files: {count} = {len(READ)} read + {len(captions)} captions beside an image + {left_out} left out"
    assert total in out and "not read: key licence (1 times)" in out
    for reason in set(wanted.values()):
        assert f"{reason} {manifest.skipped[reason]}" in out
    details = {os.path.basename(entry["file"]): entry["detail"] for entry in entries}
    assert "b.heic is of a format that is not read" in details["b.txt"] and "convert it" in details["b.heic"]
    assert "UTF-16" in details["utf16.png"] and "unpack it" in details["x.zip"]
    assert load_tool("index_data").main(["inspect", str(tmp_path / "index")]) == 0
    assert total in capsys.readouterr().out


def test_strict_names_what_is_left_out_but_not_what_a_desktop_leaves(run, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    for name, data in {"a.png": picture(), "a.txt": RED, ".DS_Store": b"", "Thumbs.db": b"", "._a.png": b""}.items():
        (tmp_path / "raw" / name).write_bytes(data)
    arguments = ("build", "--input", tmp_path / "raw", "--output", tmp_path / "index", "--strict")
    assert run(*arguments) == 0
    assert "files: 5 = 1 read + 1 captions beside an image + 3 left out" in capsys.readouterr().out
    assert run(*arguments) == 0, "also where it is finished"
    (tmp_path / "raw" / "b.heic").write_bytes(b"?")
    assert run(*arguments, "--overwrite") == 0, "the index is there, of the same images"
    (tmp_path / "index.json").unlink()
    capsys.readouterr()
    assert run(*arguments) == 2
    assert "b.heic: unread_format" in capsys.readouterr().err


def test_every_member_of_an_odd_tar_is_counted(run, tmp_path, capsys):
    members: list[tuple[str, bytes]] = []
    plain = {name: data for name, data in READ.items() if name.isascii() and name.count(".") == 1}
    plain = {
        stem: (name, data) for name, data in plain.items() if f"{(stem := name.rpartition('.')[0])}.txt" in CAPTIONS
    }
    for stem, (name, data) in plain.items():  # one of each stem
        members += [(name, data), (f"{stem}.txt", CAPTIONS[f"{stem}.txt"])]
    lost = {name: value for name, value in LOST.items() if value[1] is not None and name != "moving.webp"}
    for name, (data, caption, _) in lost.items():
        members += [(name, data), (f"{name.rpartition('.')[0]}.txt", caption)]
    numbered = [(f"photo.{i}.{ending}", data) for i in range(5) for ending, data in (("png", picture(i)), ("txt", RED))]
    dotted = [("Track 2.0 (clean).png", picture()), ("Track 2.0 (clean).json", b'{"caption": "red", "url": "x"}')]
    bare = [(f"bare.{i}.png", picture()) for i in range(5)]
    odd = [
        ("cls.png", picture()), ("cls.txt", RED), ("cls.cls", b"7"), ("cls.npy", b"?"), ("cls.7.npy", b"?"),
        ("two.jpg", picture(1, ending="jpg")), ("two.png", picture(2)), ("two.txt", RED),
        ("b.heic", b"?"), ("b.txt", RED), ("README", b"?"), ("__MACOSX/._a.png", b"?"), (".DS_Store", b"?"),
        ("both.png", picture()), ("both.json", b'{"caption": "red"}'), ("both.txt", b"blue"),
        ("same.png", picture()), ("same.json", b'{"caption": "red"}'), ("same.txt", b"red\n"),
    ]  # fmt: skip
    members += [*numbered, *dotted, *bare, *odd]
    source = write_tar(tmp_path / "x.tar", members)
    assert run("build", "--input", source, "--output", tmp_path / "index") == 0
    out = capsys.readouterr().out
    manifest = Manifest.read(tmp_path / "index.json")
    (info,) = manifest.sources
    assert sum(info.members.values()) == len(members) and info.files == {"read": 1, "captions": 0, "left_out": 0}
    kept = len(plain) + 5 + 1 + 4
    assert manifest.documents == {"image": kept}
    assert info.members["read"] == kept and info.members["captions"] == kept + 1  # two of same.*
    assert f"members of tar files: {len(members)} = {kept} read" in out
    reasons = {entry["key"]: entry["reason"] for entry in log(tmp_path / "index") if "key" in entry}
    assert {f"bare.{i}": "no_caption" for i in range(5)}.items() <= reasons.items()
    assert reasons["b"] == "no_image" and reasons["README"] == "bad_record"
    assert {name.rpartition(".")[0]: reason for name, (_, _, reason) in lost.items()}.items() <= reasons.items()
    assert info.unread == {
        "hidden and system members": 2, "key url": 1, "members .N.npy": 1, "members .cls": 1, "members .npy": 1,
        "members .png": 1, "members .txt": 1,
    }  # fmt: skip


def test_files_beside_a_list_of_images(run, tmp_path, capsys):
    folder = tmp_path / "raw"
    lines = [{"image": "a.png", "caption": "red"}, {"image": "a.png", "caption": "blue"},
             {"image": "bad.png", "caption": "red"}, {"text": "a square"}]  # fmt: skip
    contents = {"a.png": picture(), "bad.png": b"?", "b.png": picture(), "b.txt": RED, "c.heic": b"", "README.md": b"#",
                "sub/d.png": picture(), ".git/x": b"", "LICENSE": b""}  # fmt: skip
    contents["captions.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    assert run("build", "--input", folder, "--output", tmp_path / "index") == 0
    (source,) = Manifest.read(tmp_path / "index.json").sources
    assert source.files == {"read": 2, "captions": 0, "left_out": 8}
    named = {os.path.relpath(entry["file"], folder): entry["reason"] for entry in log(tmp_path / "index")}
    named.pop("captions.jsonl")  # with the line of bad.png
    assert named == {
        **{"b.png": "unnamed_image", "sub/d.png": "unnamed_image", "c.heic": "unread_format", ".git": "hidden_file"},
        **dict.fromkeys(("b.txt", "README.md", "LICENSE"), "other_file"),
    }
    assert source.skipped == dict(Counter([*named.values(), "unreadable_image"])) and not source.unread
    assert "files: 10 = 2 read" in capsys.readouterr().out


def test_files_beside_tar_files_and_below_them(run, tmp_path, capsys):
    folder = tmp_path / "raw"
    for number in range(2):
        write_tar(folder / f"{number}.tar", {"a.png": picture(number), "a.txt": RED})
    write_tar(folder / "sub" / "lost.tar", {"a.png": picture(), "a.txt": RED})
    (folder / "README.md").write_bytes(b"#")
    (folder / "b.heic").write_bytes(b"?")
    command = ("build", "--input", folder, "--output", tmp_path / "index")
    for number in range(2):
        assert run(*command, "--shard", f"{number}/2") == 0
    assert load_tool("index_data").main(["merge", "--output", str(tmp_path / "index"), "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert "files: 5 = 2 read + 0 captions beside an image + 3 left out" in out
    assert "members of tar files: 4 = 2 read + 2 captions beside an image + 0 left out" in out
    lost = {"b.heic", "sub/lost.tar", "README.md"}
    assert {os.path.relpath(entry["file"], folder) for entry in log(tmp_path / "index")} == lost
    assert run(*command) == 0 and "is finished" in capsys.readouterr().out
    for path in folder.glob("*.tar"):
        path.unlink()
    (folder / "b.heic").unlink()
    assert run("build", "--input", folder, "--output", tmp_path / "other") == 2
    assert "directly in it, but sub/lost.tar; give" in capsys.readouterr().err


def test_an_older_manifest_without_counts_of_files(run, tmp_path, capsys):
    write_tar(tmp_path / "x.tar", {"a.png": picture(), "a.txt": RED})
    assert run("build", "--input", tmp_path / "x.tar", "--output", tmp_path / "index") == 0
    path = tmp_path / "index.json"
    values = json.loads(path.read_text())
    for name in ("files", "members", "unread"):
        del values["sources"][0][name]
    path.write_text(json.dumps(values))
    capsys.readouterr()
    assert run("build", "--input", tmp_path / "x.tar", "--output", tmp_path / "index") == 0
    out = capsys.readouterr().out
    assert "is finished" in out and "files:" not in out


def test_a_socket_is_no_file(run, tmp_path):
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:  # its path must be short
        folder = Path(short)
        server.bind(str(folder / "s"))
        (folder / "a.png").write_bytes(picture())
        (folder / "a.txt").write_bytes(RED)
        assert run("build", "--input", folder, "--output", tmp_path / "index") == 0
    assert Manifest.read(tmp_path / "index.json").skipped == {"not_a_file": 1}
