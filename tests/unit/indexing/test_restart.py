"""Several inputs, several hosts, and builds that end early: what is finished is kept, nothing half-written passes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mars_megatron.data.store import Store
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.merge import merge_indices, remove_shards, shard_prefixes
from mars_megatron.index.writer import IndexWriter
from tests.support.raw import build, contents, documents, index_bytes, many_lines, picture, write_lines, write_tar
from tests.support.waiting import scaled, wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Four inputs; of the third nothing can be used."""
    raw = tmp_path / "raw"
    images = {f"{number}.png": picture(number) for number in range(9)}
    lines = [{"image": name, "caption": "a red square"} for name in images]
    return [
        write_lines(raw / "0.jsonl", [*lines, *many_lines(5)], images),
        write_tar(raw / "1.tar", {"a.png": picture(20), "a.txt": b"a blue circle"}),
        write_lines(raw / "2.jsonl", [{"image": "none.png", "caption": "a"}]),
        write_lines(raw / "3.txt", [line["text"].encode() for line in many_lines(7, seed=1)]),
    ]


def times(prefixes):
    return [Path(f"{prefix}.json").stat().st_mtime_ns for prefix in prefixes]


@pytest.mark.parametrize("workers", [0, 2])
def test_several_inputs_become_one_index(tmp_path, inputs, tokenizers, workers):
    manifest = build(inputs, tmp_path / "index", tokenizers, workers=workers)
    assert manifest.documents == {"image": 10, "text": 12} and manifest.skipped == {"missing_image": 1}
    assert [source.samples for source in manifest.sources] == [14, 1, 0, 7]
    apart = []
    for number, path in enumerate(inputs):
        if number != 2:
            build(path, tmp_path / f"apart{number}", tokenizers)
            apart += documents(tmp_path / f"apart{number}", tokenizers[0])
            shard = index_bytes(tmp_path / "index.shards" / f"{number:06d}")
            assert shard == index_bytes(tmp_path / f"apart{number}")
    assert documents(tmp_path / "index", tokenizers[0]) == apart
    assert Manifest.read(tmp_path / "index.shards" / "000002.json").num_documents == 0


def test_shards_of_several_hosts(tmp_path, inputs, tokenizers):
    said: list[str] = []
    for number in (2, 0, 1):
        assert build(inputs, tmp_path / "index", tokenizers, shard=(number, 3), say=said.append) is None
        assert not (tmp_path / "index.json").exists()
        if number == 2:
            with pytest.raises(ValueError, match="3 of the 4 shards .* are not complete"):
                shard_prefixes(tmp_path / "index")
    assert any("merge --output" in message for message in said)
    merge_indices(shard_prefixes(tmp_path / "index"), tmp_path / "index", progress=False)
    whole = build(inputs, tmp_path / "other", tokenizers)
    assert index_bytes(tmp_path / "index") == index_bytes(tmp_path / "other")
    assert Manifest.read(tmp_path / "index.json").documents == whole.documents
    # One input, given as a shard, is one too.
    build(inputs[:1], tmp_path / "single", tokenizers, shard=(0, 1))
    assert len(shard_prefixes(tmp_path / "single")) == 1


def test_finished_shards_are_kept(tmp_path, inputs, tokenizers, monkeypatch):
    build(inputs, tmp_path / "index", tokenizers)
    before = contents(tmp_path)
    shards = [tmp_path / "index.shards" / f"{number:06d}" for number in range(4)]
    made = times(shards)
    said: list[str] = []
    build(inputs, tmp_path / "index", tokenizers, say=said.append)
    assert contents(tmp_path) == before and times(shards) == made and said == [f"{tmp_path / 'index'} is finished"]
    (tmp_path / "index.json").unlink()
    build(inputs, tmp_path / "index", tokenizers, say=said.append)
    assert contents(tmp_path) == before and times(shards) == made and "4 of 4 inputs are finished" in said[1]
    # By their checksum, after a copy that changed the times.
    for path in inputs:
        os.utime(path, ns=(0, 0))
    build(inputs, tmp_path / "index", tokenizers)
    assert contents(tmp_path) == before and times(shards) == made
    # One of them is not complete: it alone is made again.
    (tmp_path / "index.shards" / "000001.json").unlink()
    (tmp_path / "index.json").unlink()
    build(inputs, tmp_path / "index", tokenizers)
    assert times(shards)[::2] == made[::2] and times(shards)[1] != made[1]
    assert {name: data for name, data in contents(tmp_path).items() if not name.endswith("json")} == {
        name: data for name, data in before.items() if not name.endswith("json")
    }
    shards[3].with_suffix(".bin").unlink()
    (tmp_path / "index.json").unlink()
    build(inputs, tmp_path / "index", tokenizers, overwrite=True)
    Store(shards[3])


def test_a_finished_index_is_kept(tmp_path, inputs, tokenizers):
    said: list[str] = []
    for path in inputs[:2]:
        prefix = tmp_path / f"index{path.stem}"
        first = build(path, prefix, tokenizers)
        made = times([prefix])
        assert build(path, prefix, tokenizers, say=said.append) == first and times([prefix]) == made
        os.utime(path, ns=(1, 1))
        build(path, prefix, tokenizers, workers=2)
        assert times([prefix]) == made and said[-1] == f"{prefix} is finished"


def test_another_index_is_not_replaced(tmp_path, inputs, tokenizers, image_model, text_model):
    first, second = inputs[0], inputs[1]
    build(first, tmp_path / "index", tokenizers)
    before = contents(tmp_path)
    other = shutil.copytree(image_model, tmp_path / "vq")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    for given, options, message in (
        (first, {"resolution": 16}, "resolution 8, not 16"),
        (first, {"fit": "stretch"}, "fit 'crop', not 'stretch'"),
        (first, {"captions": (("dense", 2.0),)}, "captions"),
        (first, {"max_caption_tokens": 9}, "max_caption_tokens 1024, not 9"),
        (second, {}, "was made from .*0.jsonl, not from .*1.tar"),
    ):
        with pytest.raises(ValueError, match=f"index is there, but .*{message}.*--overwrite"):
            build(given, tmp_path / "index", tokenizers, **options)
    with pytest.raises(ValueError, match="another image tokenizer"):
        build(first, tmp_path / "index", (text_model, other))
    shutil.rmtree(other)
    assert contents(tmp_path) == before
    with first.open("a") as file:
        file.write('{"text": "a square"}\n')
    with pytest.raises(ValueError, match="0.jsonl has changed since"):
        build(first, tmp_path / "index", tokenizers)
    assert build(first, tmp_path / "index", tokenizers, overwrite=True).documents == {"image": 9, "text": 6}
    build(second, tmp_path / "index", tokenizers, overwrite=True, resolution=16)
    assert Store(tmp_path / "index").num_codes == 16


def test_another_list_of_inputs_is_not_replaced(tmp_path, inputs, tokenizers):
    build(inputs, tmp_path / "index", tokenizers, shard=(0, 4))
    for given, options, message in (
        (inputs[:3], {}, "it has 4 inputs, not 3"),
        (inputs[::-1], {}, "its input 0 is 0.jsonl of .* bytes, not .*3.txt"),
        (inputs, {"resolution": 16}, "its resolution is 8, not 16"),
        (inputs, {"image_tokenizer": None, "resolution": 0}, "its fit is 'crop', not None"),
    ):
        used = tokenizers if options.pop("image_tokenizer", 1) else (tokenizers[0], None)
        with pytest.raises(ValueError, match=f"inputs.json is of another build: {message}"):
            build(given, tmp_path / "index", used, shard=(1, 4), **options)
    build(inputs[:3], tmp_path / "index", tokenizers, overwrite=True)
    build(inputs[:2], tmp_path / "index", tokenizers, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "index.shards").glob("*.json")) == [
        "000000.json", "000001.json", "inputs.json"
    ]  # fmt: skip
    assert Store(tmp_path / "index").num_documents == 15
    with pytest.raises(ValueError, match="index is there, but was made from 2 inputs, not from 4"):
        shutil.rmtree(tmp_path / "index.shards")
        build(inputs, tmp_path / "index", tokenizers)
    assert not (tmp_path / "index.shards").exists()


def test_an_input_that_changes_meanwhile(tmp_path, inputs, tokenizers, monkeypatch):
    add = IndexWriter.add

    def change(self, *arguments):
        os.utime(inputs[0], ns=(5, 5))
        add(self, *arguments)

    monkeypatch.setattr(IndexWriter, "add", change)
    with pytest.raises(ValueError, match="0.jsonl changed while it was read"):
        build(inputs[0], tmp_path / "index", tokenizers)
    assert not list(tmp_path.glob("index*"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes: the next write fails as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal that goes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("workers", [0, 1])
def test_full_disk(tmp_path, inputs, tokenizers, workers):
    """The first index fits, the last does not: the first stays, of the last nothing is left."""
    long = write_lines(tmp_path / "raw" / "4.jsonl", many_lines(3000))
    with pytest.raises(OSError, match="index.shards/000001"), largest_file(20_000):
        build([inputs[0], long], tmp_path / "index", tokenizers, workers=workers)
    assert sorted(contents(tmp_path / "index.shards")) == [
        "000000.bin", "000000.idx", "000000.json", "inputs.json"
    ]  # fmt: skip
    assert build([inputs[0], long], tmp_path / "index", tokenizers).documents == {"image": 9, "text": 3005}


def test_two_processes_on_one_output(tmp_path, inputs, tokenizers):
    writer = IndexWriter(tmp_path / "index")
    try:
        with pytest.raises(ValueError, match="another process is writing .*index"):
            build(inputs[0], tmp_path / "index", tokenizers)
    finally:
        writer.discard()
    build(inputs[0], tmp_path / "index", tokenizers)


def test_an_input_that_another_process_writes_is_passed_over(tmp_path, inputs, tokenizers):
    (tmp_path / "index.shards").mkdir()
    writer = IndexWriter(tmp_path / "index.shards" / "000001")
    try:
        with pytest.raises(ValueError, match=r"another process is writing .*/000001; .*the other inputs are done"):
            build(inputs, tmp_path / "index", tokenizers)
    finally:
        writer.discard()
    made = sorted(path.stem for path in (tmp_path / "index.shards").glob("0*.json"))
    assert made == ["000000", "000002", "000003"]
    build(inputs, tmp_path / "index", tokenizers)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "ending"),
    [
        *((cut, ending) for ending in ("bin", "idx", "weights.npy")),  # of a cut log only its checksum tells
        *((Path.unlink, ending) for ending in ("bin", "idx", "weights.npy", "skipped.jsonl")),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_a_damaged_index_is_made_again(tmp_path, tokenizers, damage, ending, several):
    images, said = {"0.png": picture()}, []
    lines = [{"image": name, "caption": "a red square"} for name in ("0.png", "none.png")]
    given = [write_lines(tmp_path / "raw" / f"{number}.jsonl", lines, images) for number in range(1 + several)]
    options = {"captions": (("caption", 2.0),), "say": said.append}
    build(given, tmp_path / "index", tokenizers, **options)
    before = contents(tmp_path)
    assert f"index.{ending}" in before
    damage(tmp_path / f"index.{ending}")
    if several:
        damage(tmp_path / "index.shards" / f"000001.{ending}")
    said.clear()
    build(given, tmp_path / "index", tokenizers, **options)
    assert contents(tmp_path) == before
    assert said[0].startswith(f"{tmp_path}/index is made again: {tmp_path}/index.{ending}")
    assert not several or "000001 is made again" in said[1]


def test_after_the_shards_were_removed(tmp_path, inputs, tokenizers):
    first = build(inputs, tmp_path / "index", tokenizers)
    remove_shards(tmp_path / "index")
    before, said = contents(tmp_path), []
    assert build(inputs, tmp_path / "index", tokenizers, say=said.append) == first
    assert build(inputs, tmp_path / "index", tokenizers, say=said.append, shard=(1, 2)) is None
    assert contents(tmp_path) == before and said == [f"{tmp_path / 'index'} is finished"] * 2
    with pytest.raises(ValueError, match="index is there, but was made with resolution 8, not 16"):
        build(inputs, tmp_path / "index", tokenizers, resolution=16)
    assert contents(tmp_path) == before


def test_strict_where_the_index_is_finished(tmp_path, inputs, tokenizers):
    lines = [b'{"text": "a red square"}', b"no JSON"]
    source = write_lines(tmp_path / "x.jsonl", lines)
    build(source, tmp_path / "single", tokenizers)
    with pytest.raises(ValueError, match=r"'bad_record': 1.* was left out of it, see .*single\.skipped\.jsonl"):
        build(source, tmp_path / "single", tokenizers, strict=True)
    build(inputs, tmp_path / "index", tokenizers)
    for name in ("index.json", "index.shards/000002.json"):
        with pytest.raises(ValueError, match=f"see .*{name[:-5]}.skipped.jsonl"):
            build(inputs, tmp_path / "index", tokenizers, strict=True)
        (tmp_path / "index.json").unlink(missing_ok=True)
    build(inputs[:1], tmp_path / "good", tokenizers)
    build(inputs[:1], tmp_path / "good", tokenizers, strict=True)


def test_an_edited_image_of_a_folder_is_noticed(tmp_path, tokenizers):
    raw = tmp_path / "raw"
    raw.mkdir()
    for seed in range(2):
        (raw / f"{seed}.bmp").write_bytes(picture(seed, ending="bmp"))
        (raw / f"{seed}.txt").write_text("a red square")
    build(raw, tmp_path / "index", tokenizers)
    build(raw, tmp_path / "index", tokenizers)
    raw.rename(tmp_path / "moved")
    build(tmp_path / "moved", tmp_path / "index", tokenizers)
    (tmp_path / "moved").rename(raw)
    (raw / "0.bmp").write_bytes(picture(7, ending="bmp"))
    with pytest.raises(ValueError, match="raw has changed since"):
        build(raw, tmp_path / "index", tokenizers)


def test_a_failed_replacement_leaves_the_index(tmp_path, inputs, tokenizers):
    lines = write_lines(tmp_path / "x.jsonl", [b'{"text": "a red square"}', b"no JSON"])
    build(lines, tmp_path / "out" / "index", tokenizers)
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"nothing was indexed .*index\.nothing_indexed\.jsonl"):
        build(inputs[2], tmp_path / "out" / "index", tokenizers, overwrite=True)
    log = (tmp_path / "out" / "index.nothing_indexed.jsonl").read_bytes()
    assert contents(tmp_path / "out") == before | {"index.nothing_indexed.jsonl": log} and b"missing_image" in log
    build(inputs[1], tmp_path / "out" / "index", tokenizers, overwrite=True)
    assert set(contents(tmp_path / "out")) == {"index.bin", "index.idx", "index.json"}


def test_paths_of_tokenizers_are_absolute(tmp_path, text_model, image_model, monkeypatch):
    source = write_lines(tmp_path / "x.jsonl", [{"image": "0.png", "caption": "a"}], {"0.png": picture()})
    monkeypatch.chdir(text_model.parent)
    manifest = build(source, tmp_path / "index", (text_model.name, os.path.relpath(image_model)))
    assert (manifest.text_tokenizer.path, manifest.image_tokenizer.path) == (str(text_model), str(image_model))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "ignore", str(ROOT / "tools" / "index_data.py"), *map(str, arguments)]


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_and_built_again(tmp_path, tokenizers, text_model, number):
    """Nothing passes for an index, no process stays, and the next build has every document once."""
    small, large = write_lines(tmp_path / "a.jsonl", many_lines(50)), tmp_path / "b.jsonl"
    write_lines(large, many_lines(3000))
    large.write_bytes(large.read_bytes() * 300)
    out = tmp_path / "out"
    arguments = ("--input", small, large, "--output", out / "index", "--text-tokenizer", text_model, "--workers", 2)
    process = start(*arguments)
    temporary = out / "index.shards" / "000001.bin.tmp"
    wait_until(lambda: temporary.exists() and temporary.stat().st_size > 1_000_000, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # a server that forks, and two workers
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 130), errors
    gone, alive = psutil.wait_procs(children, timeout=scaled(20))
    assert not alive
    left = {path.name for path in out.rglob("*") if path.is_file()}
    kept = {"inputs.json", "000000.bin", "000000.idx", "000000.json"}
    if number == signal.SIGKILL:
        assert left >= kept and all(name.endswith((".tmp", ".lock")) for name in left - kept)
    else:
        assert left == kept and "Traceback" not in errors
    large.write_bytes(large.read_bytes()[: 300 * 1000])
    with large.open("ab") as file:
        file.write(b'{"text": "the colour red"}\n')
    manifest = build([small, large], out / "index", (tokenizers[0], None), overwrite=True, workers=2)
    lines = large.read_bytes().count(b"\n")
    assert manifest.num_documents + manifest.skipped.get("bad_record", 0) == 50 + lines
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".lock"))]


def test_inputs_are_written_once(tmp_path, inputs, tokenizers):
    build(inputs, tmp_path / "index", tokenizers, shard=(3, 4))
    listed = tmp_path / "index.shards" / "inputs.json"
    status, found = listed.stat(), json.loads(listed.read_text())
    assert found["inputs"] == [str(path) for path in inputs]
    build(inputs, tmp_path / "index", tokenizers, shard=(1, 4))
    assert (listed.stat().st_ino, listed.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert not list(listed.parent.glob("*.tmp"))
