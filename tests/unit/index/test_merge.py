import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset

from mars_megatron.data.store import Store
from mars_megatron.index.manifest import Manifest, SourceInfo
from mars_megatron.index.merge import already_merged, merge_indices, remove_shards, shard_prefixes
from mars_megatron.indexing.validation import validate_index
from tests.support.small_indices import IMAGE, MIXED, PAIRS, TEXT, documents, write_index
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]


def read(prefix, ending):
    return Path(f"{prefix}.{ending}").read_bytes()


def source(name, samples=1):
    return SourceInfo(f"/data/{name}", 10, 1, name * 16, samples)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.lists(documents, max_size=4), min_size=1, max_size=4), data=st.data())
def test_any_split_merges_into_the_index_written_in_one_go(tmp_path_factory, parts, data):
    folder = tmp_path_factory.mktemp("merge")
    docs = [document for part in parts for document in part]
    if not docs:
        return
    joined, prefixes = [], []
    for number, part in enumerate(parts):
        size = sum(map(len, part))
        modes = [mode for document in part for mode, _ in document]
        some = [1 + (number + i) / 8 if mode == 0 else 1.0 for i, mode in enumerate(modes)]
        weights = data.draw(st.none() | st.just(some)) if size else None
        joined.append((weights, size))
        prefixes.append(folder / f"part{number}")
        reasons = data.draw(st.lists(st.sampled_from(["unreadable_image", "bad_line"]), max_size=2))
        write_index(prefixes[-1], part, weights=weights, skipped=reasons)
    one = None
    if any(weights is not None for weights, _ in joined):
        one = [weight for weights, size in joined for weight in (weights or [1.0] * size)]
    expected = write_index(folder / "whole", docs, weights=one)
    found = merge_indices(prefixes, folder / "merged", progress=False)
    for ending in ("bin", "idx", *(["weights.npy"] if one is not None else [])):
        assert read(folder / "merged", ending) == read(folder / "whole", ending), ending
    assert replace(found, skipped={}, sha256={}) == replace(expected, sha256={})
    assert Manifest.read(folder / "merged.json") == found
    logs = b"".join(read(p, "skipped.jsonl") for p in prefixes if Path(f"{p}.skipped.jsonl").exists())
    assert logs == (read(folder / "merged", "skipped.jsonl") if found.skipped else b"")
    assert validate_index(folder / "merged", progress=False).problems == []
    dataset = IndexedDataset(str(folder / "merged"), multimodal=True)
    assert [(int(mode), ids.tolist()) for ids, mode in (dataset.get(i) for i in range(len(dataset)))] == [
        sequence for document in docs for sequence in document
    ]
    assert not list(folder.glob("*.tmp")) and not list(folder.glob("*.lock"))


@pytest.fixture
def parts(tmp_path):
    write_index(tmp_path / "a", MIXED[:3], sources=(source("a"),), settings={"crop": "centre"}, skipped=["bad_line"])
    write_index(tmp_path / "b", MIXED[3:], sources=(source("b"),), settings={"crop": "centre"})
    return [tmp_path / "a", tmp_path / "b"]


def test_manifests_are_added_up(parts, tmp_path):
    manifest = merge_indices(parts, tmp_path / "out", progress=False)
    assert manifest.documents == {"text": 1, "image": 2, "pair": 1, "interleaved": 1}
    assert [s.path for s in manifest.sources] == ["/data/a", "/data/b"] and manifest.skipped == {"bad_line": 1}
    assert manifest.settings == {"crop": "centre"} and not manifest.caption_weights
    assert Store(tmp_path / "out").num_documents == 5


def test_parts_without_images_or_pairs_or_documents(tmp_path):
    write_index(tmp_path / "text", [MIXED[1]], image=None)
    write_index(tmp_path / "empty", [], skipped=["bad_line"], image=None)
    write_index(tmp_path / "image", [MIXED[0]], image=IMAGE)
    write_index(tmp_path / "pair", [MIXED[2]], image=PAIRS)
    names = ("text", "empty", "image", "pair")
    manifest = merge_indices([tmp_path / name for name in names], tmp_path / "out", progress=False)
    assert manifest.image_tokenizer == PAIRS and manifest.num_documents == 3 and manifest.skipped == {"bad_line": 1}
    with pytest.raises(ValueError, match="nothing to merge into .*none.*no part has a document.*bad_line"):
        merge_indices([tmp_path / "empty"], tmp_path / "none", progress=False)
    assert not list(tmp_path.glob("none*"))


def test_nothing_is_done_twice(parts, tmp_path):
    out = tmp_path / "out"
    assert not already_merged(parts, out, progress=False)
    merge_indices(parts, out, progress=False)
    before = Path(f"{out}.bin").stat().st_mtime_ns
    assert already_merged(parts, out, progress=False)
    merge_indices(parts, out, progress=False)
    assert Path(f"{out}.bin").stat().st_mtime_ns == before
    merge_indices(parts, out, progress=False, overwrite=True)
    assert Path(f"{out}.bin").stat().st_mtime_ns > before


@pytest.mark.parametrize("order", [[1, 0], [0]])
def test_another_index_at_the_output_stays(parts, tmp_path, order):
    merge_indices(parts, tmp_path / "out", progress=False)
    other, before = [parts[i] for i in order], read(tmp_path / "out", "bin")
    with pytest.raises(ValueError, match="out.json exists and is not the merge of these parts"):
        merge_indices(other, tmp_path / "out", progress=False)
    assert read(tmp_path / "out", "bin") == before
    merge_indices(other, tmp_path / "out", progress=False, overwrite=True)
    assert already_merged(other, tmp_path / "out", progress=False)


def test_same_arrays_but_other_tokens_are_another_index(tmp_path):
    write_index(tmp_path / "a", [[(0, [1, 2])]])
    write_index(tmp_path / "b", [[(0, [1, 3])]])
    merge_indices([tmp_path / "a"], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="is not the merge"):
        merge_indices([tmp_path / "b"], tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": replace(TEXT, fingerprint="other")}, r"a\.json and .*b\.json.*text_tokenizer\.fingerprint"),
        ({"text": replace(TEXT, bos_id=None)}, r"text_tokenizer\.bos_id is 1 in the one, None in the other"),
        ({"image": replace(PAIRS, fingerprint="other")}, r"image_tokenizer\.fingerprint"),
        ({"image": replace(PAIRS, codebook_size=32)}, r"image_tokenizer\.codebook_size is 16 .* 32"),
        ({"image": replace(PAIRS, grid=(4, 1))}, r"image_tokenizer\.grid is \(2, 2\)"),
        ({"image": replace(PAIRS, low_grid=(2, 1))}, r"image_tokenizer\.low_grid"),
        ({"settings": {"crop": "pad"}}, r"settings\.crop is 'centre' in the one, 'pad' in the other"),
        ({"settings": {}}, r"settings\.crop is 'centre' in the one, None"),
        ({"sources": (source("a"),)}, r"/a and .*/b both have samples of /data/a"),
    ],
)
def test_parts_that_do_not_fit_together(parts, tmp_path, changes, message):
    write_index(parts[1], MIXED[3:4], **{"sources": (source("b"),), "settings": {"crop": "centre"}} | changes)
    with pytest.raises(ValueError, match=message):
        merge_indices(parts, tmp_path / "out", progress=False)
    assert not list(tmp_path.glob("out*"))


def test_paths_of_tokenizers_may_differ(parts, tmp_path):
    text, image = replace(TEXT, path="moved"), replace(PAIRS, path="moved")
    write_index(parts[1], MIXED[3:], text=text, image=image, settings={"crop": "centre"})
    assert merge_indices(parts, tmp_path / "out", progress=False).text_tokenizer.path == TEXT.path


@pytest.mark.parametrize(
    ("ending", "damage", "message"),
    [
        ("json", None, r"a\.json is missing: the index is not complete"),
        ("idx", None, r"a\.idx is missing"),
        ("bin", None, r"a\.bin is missing"),
        ("skipped.jsonl", None, r"a\.skipped\.jsonl is missing"),
        ("bin", lambda data: data[:-4], r"a\.bin has \d+ bytes, its index describes"),
        ("bin", lambda data: data[:-1] + b"\1", r"a\.bin is damaged"),
        ("idx", lambda data: data[:-1] + b"\4", r"a\.idx is damaged"),
        ("skipped.jsonl", lambda data: data + b"{}\n", r"a\.skipped\.jsonl is damaged"),
        ("json", lambda data: data.replace(b'"text": 1', b'"text": 2'), r"a\.idx has documents .*manifest says"),
    ],
)
def test_damaged_parts(parts, tmp_path, ending, damage, message):
    path = Path(f"{parts[0]}.{ending}")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        merge_indices(parts, tmp_path / "out", progress=False)
    assert not list(tmp_path.glob("out*"))


def test_parts_given_wrongly(parts, tmp_path):
    for prefixes, message in (
        ([], "no part was given"),
        ([parts[0], tmp_path / "x" / ".." / "a"], "given twice"),
        ([*parts, tmp_path / "out"], "is a part and the output"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_indices(prefixes, tmp_path / "out", progress=False)


def test_another_process_writes_the_output(parts, tmp_path):
    with FileLock(tmp_path / "out.lock"), pytest.raises(ValueError, match="another process is writing"):
        merge_indices(parts, tmp_path / "out", progress=False)


def test_a_full_disk_leaves_nothing(parts, tmp_path):
    """A limit on the size of files stands in for it."""
    script = """
        import resource, sys
        from mars_megatron.index.merge import merge_indices
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
        try:
            merge_indices(sys.argv[1:-1], sys.argv[-1], progress=False)
        except OSError as error:
            sys.exit(7 if error.errno == 27 else f"{error}")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, parts), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert not list(tmp_path.glob("out*"))


def test_killed_merge_leaves_no_index_and_can_be_repeated(tmp_path):
    size = 40_000_000  # tokens: long enough to be killed in between
    from mars_megatron.index.writer import IndexWriter

    writer = IndexWriter(tmp_path / "big")
    tokens = np.arange(size, dtype=np.int32) % TEXT.size
    writer.add(tokens, np.full(size // 100, 100, np.int32), np.zeros(size // 100, np.int8), np.ones(size // 100, int))
    writer.commit(lambda c: Manifest(c.documents(), c.tokens(), TEXT, None, sha256=c.sha256))
    writer.discard()
    script = (
        "import sys; from mars_megatron.index.merge import merge_indices; merge_indices(sys.argv[1:2], sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "big"), str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    temporary = tmp_path / "out.bin.tmp"
    wait_until(lambda: temporary.exists() and temporary.stat().st_size, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not [path for path in tmp_path.glob("out*") if path.suffix not in (".tmp", ".lock")]
    merge_indices([tmp_path / "big"], tmp_path / "out", progress=False)
    assert read(tmp_path / "out", "bin") == read(tmp_path / "big", "bin")
    assert not list(tmp_path.glob("*.tmp"))


def test_shards_of_a_build(tmp_path):
    output, shards = tmp_path / "train", tmp_path / "train.shards"
    with pytest.raises(ValueError, match="inputs.json is missing"):
        shard_prefixes(output)
    shards.mkdir()
    (shards / "inputs.json").write_text("[]")
    with pytest.raises(ValueError, match="inputs.json is not the list of a build"):
        shard_prefixes(output)
    (shards / "inputs.json").write_text(json.dumps({"inputs": ["x.tar", "y.tar"], "settings": {}}))
    write_index(shards / "000000", MIXED[:2])
    with pytest.raises(ValueError, match=r"1 of the 2 shards .* not complete: 000001 \(y.tar\).*index_data.py build"):
        shard_prefixes(output)
    write_index(shards / "000001", MIXED[2:])
    assert shard_prefixes(output) == [shards / "000000", shards / "000001"]
    merge_indices(shard_prefixes(output), output, progress=False)
    (tmp_path / "train.shards.removed").mkdir()  # of a removal that was interrupted
    remove_shards(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.idx", "train.json"]


@pytest.mark.parametrize("block", [1, 3])
def test_offsets_are_written_in_blocks(tmp_path, monkeypatch, block):
    write_index(tmp_path / "a", MIXED)
    monkeypatch.setattr("mars_megatron.index.writer._BLOCK", block)
    assert write_index(tmp_path / "b", MIXED).tokens == {"text": 11, "visual": 17}
    assert read(tmp_path / "a", "idx") == read(tmp_path / "b", "idx")


def test_more_parts_than_open_files(tmp_path):
    count = 150
    for number in range(count):
        weights = [1.0 + number] if number % 2 else None
        write_index(tmp_path / f"{number}", [[(0, [number % TEXT.size])]], weights=weights)
    script = """
        import resource, sys
        from mars_megatron.index.merge import already_merged, merge_indices
        parts = [f"{sys.argv[1]}/{number}" for number in range(int(sys.argv[2]))]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        merge_indices(parts, f"{sys.argv[1]}/out", progress=False)
        assert already_merged(parts, f"{sys.argv[1]}/out", progress=False)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "out").num_documents == count


def test_what_a_killed_writer_left_is_not_used(tmp_path):
    for ending in ("weights.npy", "bin", "skipped.jsonl", "json"):
        (tmp_path / f"a.{ending}.tmp").write_bytes(b"old")
    manifest = write_index(tmp_path / "a", MIXED)
    assert not manifest.caption_weights and set(manifest.sha256) == {"bin", "idx"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx", "a.json"]


def test_an_index_stays_where_the_manifest_of_the_next_cannot_be_written(tmp_path):
    write_index(tmp_path / "a", MIXED, skipped=["bad_line"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UnicodeEncodeError):
        write_index(tmp_path / "a", MIXED[:1], sources=(SourceInfo("caf\udce9.jsonl", 1, 1, "", 1),))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
