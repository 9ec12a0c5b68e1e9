"""Files told apart by what is in them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from mars_megatron.files.hashes import content_fingerprint, file_sha256, files_sha256, value_fingerprint


def test_copies_are_the_same_and_changes_are_seen(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_bytes(bytes(5 << 20))
    (folder / "inner" / "b").write_text("b")
    found = content_fingerprint(folder)
    copy = shutil.copytree(folder, tmp_path / "two")
    assert content_fingerprint(copy) == found
    for name, content in (
        ("a", bytes((5 << 20) - 1) + b"x"),  # the last byte
        ("a", b"x" + bytes((5 << 20) - 1)),
        ("a", bytes((5 << 20) + 1)),
        ("inner/b", b"c"),
        ("c", b""),
    ):
        changed = shutil.copytree(folder, tmp_path / "changed")
        (changed / name).write_bytes(content)
        assert content_fingerprint(changed) != found, name
        shutil.rmtree(changed)
    between = bytearray(5 << 20)
    between[3 << 19] = 1  # in none of the pieces of a sample
    (copy / "a").write_bytes(between)
    assert content_fingerprint(copy) == found
    assert content_fingerprint(copy, sampled=False) != content_fingerprint(folder, sampled=False)
    assert content_fingerprint(folder / "inner" / "b") == content_fingerprint(copy / "inner" / "b") != found
    with pytest.raises(ValueError, match="none is not there"):
        content_fingerprint(tmp_path / "none")


def test_values_are_those_that_indices_and_results_hold(tmp_path: Path) -> None:
    """They are compared with what former versions wrote."""
    (tmp_path / "inner").mkdir()
    files = [tmp_path / "a", tmp_path / "inner" / "b"]
    contents = [b"some text\n" * 300_000, b""]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert [file_sha256(file) for file in files] == [hashlib.sha256(content).hexdigest() for content in contents]
    joined = b"a\x003000000\0" + contents[0] + b"b\x000\0"
    assert files_sha256(files) == hashlib.sha256(joined).hexdigest()
    assert value_fingerprint({"b": [1, None], "a": Path("x")}) == "8ea2c0f31b799f047143f378"
    named = b"1 a 3000000" + contents[0] + b"7 inner/b 0"
    assert content_fingerprint(tmp_path) == hashlib.sha256(named).hexdigest()[:24]
