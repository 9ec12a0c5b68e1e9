"""Files and folders are complete when they have their name, reach the disk, and an error says which file."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest
import torch

from mars_megatron.files import writing
from mars_megatron.files.writing import (
    TEMPORARY,
    BackgroundSync,
    complete,
    naming,
    staged,
    staged_file,
    sync,
    sync_file,
    write_once,
    write_text,
)


@pytest.mark.parametrize("number", [1 << 20, (1 << 18) - 200])
def test_torch_save_on_a_full_disk(tmp_path: Path, number: int) -> None:
    """It hides the system's error behind one of its own, or not, by where it happens."""
    path, limit = tmp_path / "tensor", resource.getrlimit(resource.RLIMIT_FSIZE)
    tensor = torch.zeros(number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        with (
            pytest.raises(OSError, match="File too large, while writing a weight: '.*tensor'") as caught,
            naming(path, lambda: "a weight"),
            path.open("wb") as file,
        ):
            torch.save(tensor, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    for error in (RuntimeError("of mine"), ValueError("of mine"), FileNotFoundError(2, "missing", "source")):
        with pytest.raises(type(error)) as caught, naming(tmp_path / "file", "it"):
            raise error
        assert caught.value is error


def test_background_sync_waits_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, go, fsync = [], threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        assert go.wait(10)
        fsync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(writing.os, "fsync", slow)
    paths = [tmp_path / name for name in "abc"]
    with BackgroundSync() as background:
        for path in paths:
            path.write_text("something")
            background.start(path)
        assert not synced, "the writer goes on meanwhile"
        go.set()
    assert synced == [str(path) for path in paths]


def test_background_sync_tells_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reports a failed write once: what this swallowed, nobody would hear of again."""

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    path.write_text("something")
    monkeypatch.setattr(writing.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error.*file") as caught, BackgroundSync() as background:
        background.start(path)
    assert caught.value.errno == errno.EIO
    with pytest.raises(KeyError), BackgroundSync() as background:
        background.start(path)
        raise KeyError("the error of the block comes first")


def test_sync_takes_everything_below_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_text("something")
    synced: list[str] = []
    monkeypatch.setattr(
        writing.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    sync(tmp_path)
    assert sorted(synced) == sorted(str(path) for path in (tmp_path, *tmp_path.rglob("*"))) and len(synced) == 4


def boom(path: Path) -> None:
    raise RuntimeError(f"of the writer of {path}")


@pytest.mark.parametrize("unique", [False, True])
def test_a_file_is_complete_or_as_it_was(tmp_path: Path, unique: bool) -> None:
    path = tmp_path / "new folder" / "file.txt"
    write_text(path, "first\r\nline", unique=unique)
    assert path.read_bytes() == b"first\r\nline"
    with pytest.raises(RuntimeError, match="of the writer"), complete(path, unique=unique) as temporary:
        temporary.write_text("half of the sec")
        assert path.read_bytes() == b"first\r\nline" and temporary.parent == path.parent
        assert temporary.name.startswith(path.name) and temporary.suffix == TEMPORARY
        boom(path)
    assert path.read_bytes() == b"first\r\nline" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_content_reaches_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(writing.os, "fsync", lambda descriptor: seen.append((tmp_path / "file").exists()))
    with complete(tmp_path / "file", durable=durable) as temporary:
        temporary.write_text("content")
    assert seen == [False] * durable and (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("links", [True, False])
def test_one_of_several_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if not links:
        monkeypatch.setattr(writing.os, "link", no_links)
    path = tmp_path / "file"
    assert write_once(path, "first")
    assert not links or not write_once(path, "second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_folders_are_complete_or_as_they_were(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (tmp_path / "folder.incomplete").mkdir()
    (tmp_path / "folder.incomplete" / "left").write_text("by a killed process")
    with staged(target) as folder:
        (folder / "a").write_text("first")
    assert [path.name for path in target.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="exists and is not an empty folder"), staged(target):
        pass
    with pytest.raises(RuntimeError), staged(target, replace=True) as folder:
        (folder / "a").write_text("second")
        boom(target)
    assert (target / "a").read_text() == "first" and list(tmp_path.iterdir()) == [target]
    with staged(target, replace=True) as folder:
        (folder / "b").write_text("second")
        assert (target / "a").is_file()
    assert [path.name for path in target.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_named_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of the name, also where cleaning up fails too."""
    target, rename = tmp_path / "folder", Path.rename
    target.mkdir()
    (target / "a").write_text("first")

    def fails(path: Path, other: Path) -> Path:
        if path.name == "folder.incomplete":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output error"), staged(target, replace=True) as folder:
        (folder / "b").write_text("second")
    assert (target / "a").read_text() == "first" and list(tmp_path.iterdir()) == [target]


def test_a_file_that_must_not_replace_another(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with staged_file(target) as temporary:
        assert temporary.name == "file.incomplete"
        temporary.write_text("first")
    with pytest.raises(ValueError, match="exists; name another file"), staged_file(target):
        pass
    assert target.read_text() == "first" and list(tmp_path.iterdir()) == [target]


def test_folders_of_file_systems_without_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").write_text("something")
    monkeypatch.setattr(writing.os, "fsync", refuses)
    sync_file(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync_file(tmp_path / "file")
