"""Names with several dots in a tar file, and what of a large one is in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Skip
from mars_megatron.indexing.sources import tar as tar_module
from mars_megatron.indexing.sources.reading import HashedFile
from mars_megatron.indexing.sources.tar import TarCounts, read_tar
from tests.support.raw import build, documents, image_bytes, log, picture, write_tar

ROOT = Path(__file__).parents[4]


def read(path):
    """(samples by key, reasons by key, what is not read, members)."""
    counts, unread = TarCounts(), Counter()
    works = read_tar(HashedFile(path), 64, 1 << 20, counts)
    found = [item for work in works for item in work.samples(BuildOptions(), unread)]
    samples = {item.where["key"]: [text for text, _ in item.captions] for item in found if not isinstance(item, Skip)}
    return samples, {item.where["key"]: item.reason for item in found if isinstance(item, Skip)}, unread, counts.members


@pytest.mark.parametrize(
    "names",
    [
        ["photo.0", "photo.1", "photo.2"],
        ["235342 Track 2.0 (Clean Version)", "235342 Track 2.1"],
        ["a/IMG.20.05.2020", "a/IMG.20.05.2021", "a/IMG.x"],
        ["v1.0-cat", "v1.0-dog", "v2.cat"],
    ],
)
@pytest.mark.parametrize("ending", ["txt", "json"])
def test_names_with_dots_are_samples_of_their_own(names, ending, tmp_path):
    def caption(name):
        return json.dumps({"caption": name}).encode() if ending == "json" else name.encode()

    members = [item for name in names for item in ((f"{name}.png", b"?"), (f"{name}.{ending}", caption(name)))]
    for order in (members, sorted(members), members[::-1]):
        samples, reasons, unread, count = read(write_tar(tmp_path / "x.tar", order))
        assert samples == {name: [name] for name in names} and not reasons and not unread
        assert count == len(members)


def test_where_one_caption_is_of_several_images_all_are_counted(tmp_path):
    members = [
        ("photo.0.png", b"?"),
        ("photo.1.png", b"?"),
        ("photo.txt", b"red"),
        ("low.low.png", b"?"),
        ("low.txt", b"a"),
    ]
    samples, reasons, _, _ = read(write_tar(tmp_path / "x.tar", members))
    assert not samples
    assert reasons == {"photo.0": "no_caption", "photo.1": "no_caption", "photo": "no_image", "low": "no_image"}


def test_groups_of_webdataset_stay_one_sample(tmp_path):
    parts = json.dumps({"parts": ["red", {"image": "0.png"}, {"image": "b.png"}]}).encode()
    members = [
        ("a.png", b"?"), ("a.txt", b"red"), ("a.seg.png", b"?"), ("a.seg.txt", b"mask"), ("a.1.json", b"{}"),
        ("b.0.png", b"?"), ("b.b.png", b"?"), ("b.json", parts),
        ("c.0.png", b"?"), ("c.0.txt", b"x"), ("c.json", b'{"text": "a document"}'),
        ("d.0.png", b"?"), ("d.0.txt", b"x"), ("d.json", b'{"url": ""}'),
    ]  # fmt: skip
    samples, reasons, unread, _ = read(write_tar(tmp_path / "x.tar", members))
    assert list(samples) == ["a", "b", "c"] and reasons == {"d": "no_image"}
    assert unread == {
        "members .seg.png": 1,
        "members .seg.txt": 1,
        "members .N.json": 1,
        "members .N.png": 1,
        "members .N.txt": 1,
        "key url": 1,
    }


def test_any_number_of_samples_may_share_what_is_before_the_first_dot(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_module, "_MANY", 6)
    names = [f"v1.{number:03d}" for number in range(50)]
    members = [item for name in names for item in ((f"{name}.png", b"?"), (f"{name}.txt", name.encode()))]
    path = write_tar(tmp_path / "x.tar", members)
    assert read(path)[0] == {name: [name] for name in names}
    works = list(read_tar(HashedFile(path), 1, 1 << 20, TarCounts()))
    assert max(len(work.groups[0].suffixes) for work in works) <= 8
    parts = json.dumps({"parts": [{"image": f"{number}.png"} for number in range(20)]}).encode()
    document = [*((f"d.{number}.png", b"?") for number in range(20)), ("d.json", parts)]
    samples, reasons, _, _ = read(write_tar(tmp_path / "y.tar", document))
    assert list(samples) == ["d"] and not reasons, "images of one document are not taken apart"


def test_kinds_of_members_that_are_not_read_are_named_once(tmp_path, tokenizers):
    members = [item for i in range(40) for item in ((f"{i}.png", picture(i)), (f"{i}.txt", b"red"), (f"{i}.cls", b"7"))]
    members += [(f"x/._{i}.png", b"") for i in range(9)]
    manifest = build(write_tar(tmp_path / "x.tar", members), tmp_path / "index", tokenizers)
    assert manifest.sources[0].unread == {"hidden and system members": 9, "members .cls": 40}
    assert manifest.sources[0].members == {"read": 40, "captions": 40, "left_out": 49} and not manifest.skipped


def test_members_before_the_cut_are_counted(tmp_path, tokenizers):
    members = [item for i in range(4) for item in ((f"{i}.png", picture(i, (16, 16))), (f"{i}.txt", b"red"))]
    path = write_tar(tmp_path / "x.tar", members)
    path.write_bytes(path.read_bytes()[: 512 * 12])
    manifest = build(path, tmp_path / "index", tokenizers)
    assert manifest.skipped["truncated_tar"] == 1
    kept = manifest.num_documents
    counts = manifest.sources[0].members
    assert counts["read"] == counts["captions"] == kept and 0 < counts["left_out"] <= 2
    assert len(documents(tmp_path / "index", tokenizers[0])) == kept and log(tmp_path / "index")


MEASURE = """
import json, sys
from pathlib import Path
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer

def high_water():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

if __name__ == "__main__":
    output, text, image, *sources = sys.argv[1:]
    tokenizers = load_text_tokenizer(text), load_image_tokenizer(image)
    found = {}
    for number, source in enumerate(sources):
        Path("/proc/self/clear_refs").write_text("5")
        before = high_water()
        options = BuildOptions(resolution=8, workers=2 if source.endswith("images.tar") else 0)
        manifest = build_index(source, output + str(number), *tokenizers, options=options, progress=False)
        found[Path(source).name] = (high_water() - before, manifest.num_documents)
    print(json.dumps(found))
"""
MEGABYTES, MOST = 120, 80


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of memory")
def test_memory_does_not_grow_with_the_file(tmp_path, text_model, image_model):
    """That of the process that reads and writes, whatever waits for whom, and whatever is passed over."""
    image = image_bytes(Image.new("RGB", (800, 600), "red"), "bmp")
    count = MEGABYTES * 10**6 // len(image)
    small = {"a.bmp": image_bytes(Image.new("RGB", (8, 8)), "bmp"), "a.txt": b"a red square"}
    images = [item for i in range(count) for item in ((f"{i}.bmp", image), (f"{i}.txt", b"a red square"))]
    others = [*small.items(), *((f"{i}.npy", bytes(MEGABYTES * 10**6 // 3)) for i in range(3))]
    sources = [
        write_tar(tmp_path / "small.tar", small),  # first, so that what is loaded once is not counted
        write_tar(tmp_path / "images.tar", images),
        write_tar(tmp_path / "images.tar.gz", images, "w:gz"),
        write_tar(tmp_path / "others.tgz", others, "w:gz"),
    ]
    command = [sys.executable, "-c", MEASURE, tmp_path / "index", text_model, image_model, *sources]
    run = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [documents for _, documents in found.values()] == [1, count, count, 1]
    assert all(kilobytes < MOST << 10 for name, (kilobytes, _) in found.items() if name != "small.tar"), found
