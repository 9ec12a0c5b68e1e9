"""Files reach the disk, and an error says which file and what of it."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest
import torch

from mars_megatron.files import writing
from mars_megatron.files.writing import BackgroundSync, naming, sync


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
