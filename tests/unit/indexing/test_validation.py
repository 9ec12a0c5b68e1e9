import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mars_megatron.index import content_checks
from mars_megatron.index import reader as index_reader
from mars_megatron.index.manifest import SourceInfo
from mars_megatron.index.merge import merge_indices
from mars_megatron.indexing.sources.folder import folder_sha256
from mars_megatron.indexing.statistics import describe, inspect_index
from mars_megatron.indexing.validation import validate_index
from tests.support.small_indices import MIXED, PAIRS, documents, write_index

WEIGHTS = [0.5, 2, 1, 1, 3, 1, 1, 1, 1, 1, 1, 1]


def file(prefix, ending):
    return Path(f"{prefix}.{ending}")


def problems(prefix, **options):
    return validate_index(prefix, progress=False, **options).problems


@pytest.fixture
def prefix(tmp_path):
    write_index(tmp_path / "train", MIXED, weights=WEIGHTS, skipped=["bad_line", "unreadable_image"])
    return tmp_path / "train"


def damage(prefix, ending, change):
    """Change a file and its checksum: the damage must be found by what it means."""
    path = file(prefix, ending)
    path.write_bytes(change(path.read_bytes()))
    edit(prefix, lambda m: m["sha256"].update({ending: hashlib.sha256(path.read_bytes()).hexdigest()}))


def edit(prefix, change):
    values = json.loads(file(prefix, "json").read_text())
    change(values)
    file(prefix, "json").write_text(json.dumps(values))


def put(at, data):
    return lambda old: old[:at] + data + old[at + len(data) :]


def test_a_sound_index(prefix):
    found = validate_index(prefix, progress=False)
    assert found.problems == []
    assert found.summary == "5 documents, 11 text and 17 visual tokens"


@settings(max_examples=30, deadline=None)
@given(docs=st.lists(documents, max_size=12))
def test_blocks_of_any_size_find_nothing_in_sound_documents(tmp_path_factory, docs):
    prefix = tmp_path_factory.mktemp("sound") / "train"
    write_index(prefix, docs)
    with pytest.MonkeyPatch.context() as patch:
        for module in (content_checks, index_reader):
            patch.setattr(module, "BLOCK_SEQUENCES", 2)
        patch.setattr(content_checks, "BLOCK_BYTES", 12)  # cuts sequences into pieces
        assert problems(prefix) == []


@pytest.mark.parametrize("ending", ["bin", "idx", "json", "weights.npy", "skipped.jsonl"])
def test_a_missing_file(prefix, ending):
    file(prefix, ending).unlink()
    assert any(f"train.{ending} is missing" in problem for problem in problems(prefix))


@pytest.mark.parametrize("ending", ["bin", "idx", "json", "weights.npy", "skipped.jsonl"])
@pytest.mark.parametrize("left", [0, 3, 20, -1])
def test_a_truncated_file(prefix, ending, left):
    data = file(prefix, ending).read_bytes()
    file(prefix, ending).write_bytes(data[:left])
    if (ending, left) == ("json", -1):
        assert problems(prefix) == []  # the line break at the end
    else:
        assert any(f"train.{ending}" in problem for problem in problems(prefix))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ending=st.sampled_from(["bin", "idx", "weights.npy", "skipped.jsonl"]), seed=st.integers(0, 2**32))
def test_any_changed_byte_is_found(tmp_path_factory, ending, seed):
    """And none makes validation fail, whether the checksum fits the damage or not."""
    prefix = tmp_path_factory.mktemp("byte") / "train"
    write_index(prefix, MIXED, weights=WEIGHTS, skipped=["bad_line"])
    rng = random.Random(seed)
    path = file(prefix, ending)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    path.write_bytes(data)
    assert any(f"train.{ending}" in problem for problem in problems(prefix))
    damage(prefix, ending, bytes)
    problems(prefix)


LENGTHS, OFFSETS = 34, 34 + 12 * 4
BOUNDARIES, MODES = OFFSETS + 12 * 8, OFFSETS + 12 * 8 + 6 * 8


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        ("bin", put(0, np.int32(50).tobytes()), "a text id that its tokenizer does not have: 1 times (sequence 0)"),
        ("bin", put(4, np.int32(-1).tobytes()), "a text id that its tokenizer does not have: 1 times (sequence 0)"),
        ("bin", put(16, np.int32(16).tobytes()), "a code that its tokenizer does not have: 1 times (sequence 2)"),
        ("idx", put(0, b"X"), "is not an index of megatron-core"),
        ("idx", put(9, b"\2"), "has version 2"),
        ("idx", put(17, b"\5"), "type number 5"),
        ("idx", put(18, b"\1"), "its header describes"),
        ("idx", put(LENGTHS, np.int32(2).tobytes()), "train.bin has 112 bytes, its index describes 108"),
        ("idx", put(LENGTHS, np.array([1, 3], "i4").tobytes()), "an offset that does not follow from the lengths: 1"),
        ("idx", put(LENGTHS, np.array([4, 0], "i4").tobytes()), "a sequence without tokens: 1 times (sequence 1)"),
        ("idx", put(LENGTHS, np.array([-1, 5], "i4").tobytes()), "a sequence without tokens: 1 times (sequence 0)"),
        ("idx", put(OFFSETS, b"\1"), "an offset that does not follow"),
        ("idx", put(BOUNDARIES, b"\1"), "go from 1 to 12, not from 0 to the number of sequences, 12"),
        ("idx", put(BOUNDARIES + 5 * 8, b"\15"), "go from 0 to 13"),
        ("idx", put(BOUNDARIES + 8, b"\4"), "a document without sequences: 1 times (document 1)"),
        ("idx", put(BOUNDARIES + 8, b"\2"), "a document whose modes are of no kind: 2 times (document 0, document 1)"),
        ("idx", put(MODES, b"\5"), "a mode that is none: 1 times (sequence 0)"),
        ("idx", put(MODES, b"\xff"), "a mode that is none"),
        ("idx", put(MODES, b"\1"), "a document whose modes are of no kind: 1 times (document 0)"),
        ("idx", put(MODES + 3, b"\1"), "a document whose modes are of no kind: 1 times (document 1)"),
        ("idx", put(MODES + 5, b"\0"), "has documents {'text': 1, 'image': 3, 'pair': 0"),
        ("idx", put(MODES + 7, b"\0"), "a document whose modes are of no kind"),
        ("idx", put(MODES + 7, b"\4"), "an image whose tokens do not fill the grid: 1 times (sequence 7)"),
        ("weights.npy", put(128, np.float32(-1).tobytes()), "a weight that is not a finite number above 0: 1 times"),
        ("weights.npy", put(128, np.float32("nan").tobytes()), "a weight that is not a finite number above 0"),
        ("weights.npy", put(128 + 8, np.float32(2).tobytes()), "a weight other than 1 of what is no caption"),
        (
            "weights.npy",
            put(128, bytes(8)),
            "not a finite number above 0: 2 times (sequence 0, sequence 1)",
        ),
        ("weights.npy", lambda data: b"x" + data, "cannot be read"),
        ("skipped.jsonl", lambda data: data + data, "'bad_line': 2"),
        ("skipped.jsonl", lambda data: b"[]\n" + data, "line 1 of"),
    ],
)
def test_damage_under_a_checksum_that_fits(prefix, ending, change, message):
    damage(prefix, ending, change)
    found = problems(prefix)
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=1), "format version 1"),
        (lambda m: m["documents"].update(text=2), "the manifest says"),
        (lambda m: m["documents"].update(video=2), "documents is"),
        (lambda m: m.update(documents=[1]), "documents is [1]"),
        (lambda m: m["tokens"].update(text=13), "has tokens {'text': 11"),
        (lambda m: m.update(tokens={}), "tokens is {}"),
        (lambda m: m.update(skipped={}), "the manifest says {}"),
        (lambda m: m.update(skipped=3), "skipped is 3"),
        (lambda m: m.update(caption_weights=False), "train.weights.npy exists"),
        (lambda m: m.update(sha256={}), "has no checksum of it"),
        (lambda m: m.update(sha256=[]), "sha256 is []"),
        (lambda m: m["text_tokenizer"].update(size=10), "a text id that its tokenizer does not have"),
        (lambda m: m["text_tokenizer"].update(size="x"), "text_tokenizer.size is 'x'"),
        (lambda m: m["image_tokenizer"].update(codebook_size=8), "a code that its tokenizer does not have"),
        (lambda m: m["image_tokenizer"].update(grid=[4, 4]), "do not fill the grid"),
        (lambda m: m["image_tokenizer"].update(grid=4), "is not a manifest"),
        (lambda m: m["image_tokenizer"].update(low_grid=[2, 1]), "do not fill the grid: 1 times (sequence 5)"),
        (lambda m: m["image_tokenizer"].update(low_grid=None), "has pairs, the manifest has no low_grid"),
        (lambda m: m.update(image_tokenizer=None), "has images, the manifest names no image tokenizer"),
        (lambda m: m.update(image_tokenizer=3), "is not a manifest"),
        (lambda m: m.update(sources=[{}]), "is not a manifest"),
        (lambda m: m.update(sources=3), "is not a manifest"),
    ],
)
def test_manifests_that_do_not_fit(prefix, change, message):
    edit(prefix, change)
    found = problems(prefix, sources=True)
    assert any(message in problem for problem in found), found


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_manifest_is_never_a_crash(tmp_path_factory, seed):
    """Not of validation, and of what opens an index nothing but a ValueError."""
    rng = random.Random(seed)
    prefix = tmp_path_factory.mktemp("manifest") / "train"
    write_index(prefix, MIXED, weights=WEIGHTS, sources=(SourceInfo("a", 1, 2, "b", 3),), settings={"fit": "crop"})
    path = file(prefix, "json")
    if rng.random() < 0.5:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    else:  # some value becomes something else
        values = json.loads(path.read_text())
        table = values
        while True:
            key = rng.choice(list(table) if isinstance(table, dict) else range(len(table)))
            if not isinstance(table[key], (dict, list)) or not table[key] or rng.random() < 0.3:
                break
            table = table[key]
        table[key] = rng.choice([None, -1, 0, 7, 1.5, True, "x", "", [], [1, 2], {}, {"x": 1}, {"x": "y"}])
        path.write_text(json.dumps(values))
    problems(prefix, sources=True)
    try:
        describe(inspect_index(prefix))
        merge_indices([prefix], f"{prefix}.merged", progress=False)
    except ValueError:
        pass


def test_many_problems_are_one_line(prefix):
    write_index(prefix, [[(0, [60])]] * 40)
    assert problems(prefix) == [
        f"{prefix}.bin: a text id that its tokenizer does not have: 40 times "
        "(sequence 0, sequence 1, sequence 2, sequence 3, sequence 4, ...)"
    ]


def test_a_piece_of_a_long_sequence(prefix, monkeypatch):
    monkeypatch.setattr(content_checks, "BLOCK_BYTES", 40)
    write_index(prefix, [[(0, [1])], [(0, [*range(49), 50])], [(0, [3])]])
    assert [problem.split(": ", 1)[1] for problem in problems(prefix)] == [
        "a text id that its tokenizer does not have: 1 times (sequence 1)"
    ]


def test_sources(tmp_path):
    data = b"one,two"
    names = [tmp_path / name for name in ("same", "changed", "longer", "gone")]
    sources = tuple(SourceInfo(str(name), len(data), 0, hashlib.sha256(data).hexdigest(), 1) for name in names)
    for name, content in zip(names, (data, b"one,TWO", data + b"!"), strict=False):
        name.write_bytes(content)
    write_index(tmp_path / "train", MIXED, image=PAIRS, sources=sources)
    assert problems(tmp_path / "train") == [
        f"{tmp_path / 'train'}.json: the sources have 4 samples, the index has 5 documents"
    ]
    write_index(tmp_path / "train", MIXED[:4], image=PAIRS, sources=sources)
    assert problems(tmp_path / "train") == []
    assert problems(tmp_path / "train", sources=True) == [
        f"source {names[1]} is no longer what it was when the index was made",
        f"source {names[2]} is no longer what it was when the index was made",
        f"source {names[3]} is missing",
    ]


def test_a_source_that_is_a_folder(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.png").write_bytes(b"12345678")
    (tmp_path / "raw" / "a.txt").write_text("a caption")
    sources = (SourceInfo(str(tmp_path / "raw"), 1, 0, folder_sha256(tmp_path / "raw"), 1),)
    write_index(tmp_path / "train", MIXED[:1], sources=sources)
    assert problems(tmp_path / "train", sources=True) == []
    (tmp_path / "raw" / "a.txt").write_text("another caption")
    assert "raw is no longer what it was" in problems(tmp_path / "train", sources=True)[0]


def test_no_index_at_all(tmp_path):
    found = problems(tmp_path / "none")
    assert len(found) == 3 and all("is missing" in problem for problem in found)
