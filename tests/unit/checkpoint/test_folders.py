"""Which checkpoints count, which is the latest, and which are deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mars_megatron.checkpoint import folders


def half_written(root: Path, step: int, content: str = "") -> Path:
    """What `save` has written before it publishes; returns the final folder."""
    folder = folders.step_folder(root, step)
    folders.incomplete(folder).mkdir(parents=True)
    (folders.incomplete(folder) / "config.yaml").write_text(content)
    return folder


def checkpoint(root: Path, step: int, content: str = "") -> Path:
    folder = half_written(root, step, content)
    folders.publish(folder)
    return folder


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_names_sort_by_step(tmp_path: Path) -> None:
    assert folders.step_folder(tmp_path, 7) == tmp_path / "step_00000007"
    assert folders.incomplete(tmp_path / "step_00000007").parent == tmp_path
    steps = [100, 3, 20, 12345678]
    for step in steps:
        checkpoint(tmp_path, step)
    assert folders.complete_steps(tmp_path) == sorted(steps)


def test_only_published_folders_are_complete(tmp_path: Path) -> None:
    assert folders.complete_steps(tmp_path / "not_there") == []
    checkpoint(tmp_path, 3)
    half_written(tmp_path, 6)
    for name in ("step_9", "xstep_00000009", "step_00000009x", "tensorboard"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000010").write_text("a file")
    assert folders.complete_steps(tmp_path) == [3]


def test_latest_moves_when_a_checkpoint_is_published(tmp_path: Path) -> None:
    assert folders.latest(tmp_path) is None and folders.latest(tmp_path / "not_there") is None
    first = checkpoint(tmp_path, 3)
    assert folders.latest(tmp_path) == first
    second = half_written(tmp_path, 6)
    assert folders.latest(tmp_path) == first, "a half-written checkpoint is not the latest"
    folders.publish(second)
    assert folders.latest(tmp_path) == second
    assert names(tmp_path) == ["latest", "step_00000003", "step_00000006"]


def test_publishing_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 3, "old")
    (folder / "left_over").touch()
    checkpoint(tmp_path, 6)
    checkpoint(tmp_path, 3, "new")
    assert (folder / "config.yaml").read_text() == "new" and names(folder) == ["config.yaml"]
    assert folders.latest(tmp_path) == folder


def test_latest_naming_a_missing_folder(tmp_path: Path) -> None:
    checkpoint(tmp_path, 3)
    (tmp_path / "latest").write_text("step_00000009\n")
    with pytest.raises(ValueError, match=r"latest names step_00000009.*\['step_00000003'\].*delete it"):
        folders.latest(tmp_path)


def test_latest_as_editors_write_it(tmp_path: Path) -> None:
    """The message above asks people to write it."""
    first = checkpoint(tmp_path, 3)
    for content in (b"\xef\xbb\xbfstep_00000003\r\n", b"step_00000003", b"  step_00000003\n\n"):
        (tmp_path / "latest").write_bytes(content)
        assert folders.latest(tmp_path) == first
    for content, words in ((b"", "latest names nothing"), ("step".encode("utf-16"), "latest is UTF-16")):
        (tmp_path / "latest").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            folders.latest(tmp_path)


def test_resolve(tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path, 3), checkpoint(tmp_path, 6)
    assert folders.resolve(str(tmp_path)) == second
    assert folders.resolve(first) == first and folders.resolve(str(second)) == second
    unfinished = folders.incomplete(half_written(tmp_path, 9))
    with pytest.raises(ValueError, match="step_00000009.incomplete.*not completely written"):
        folders.resolve(unfinished)
    for empty in (tmp_path / "not_there", tmp_path / "tensorboard"):
        with pytest.raises(ValueError, match=f"{empty.name} holds no complete checkpoint"):
            folders.resolve(empty)


def test_a_run_with_half_a_checkpoint_alone_has_none(tmp_path: Path) -> None:
    half_written(tmp_path, 3)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        folders.resolve(tmp_path)


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3]), (1, [3]), (2, [2, 3]), (5, [1, 2, 3])])
def test_remove_old(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    half_written(tmp_path, 4)
    (tmp_path / "metrics.jsonl").touch()
    folders.remove_old(tmp_path, keep)
    assert names(tmp_path) == ["latest", "metrics.jsonl", *(f"step_{step:08d}" for step in left)]


def test_remove_old_spares_the_latest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    (tmp_path / "latest").write_text("step_00000001\n")  # a run that was set back
    folders.remove_old(tmp_path, 1)
    assert folders.complete_steps(tmp_path) == [1, 3]


def test_a_hugging_face_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no complete checkpoint.*tools/convert_checkpoint.py"):
        folders.resolve(tmp_path)
