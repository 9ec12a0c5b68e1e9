"""Files told apart by what is in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mars_megatron.files.hashes import content_fingerprint


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
