"""Checkpoint folders of a run: which are complete, which is the latest, which may go."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mars_megatron.files.plain_text import read_text
from mars_megatron.files.writing import INCOMPLETE, sync_file, write_text

STEPS = "step_????????"  # as a pattern of names
_STEP = re.compile(r"step_(\d{8})")
_TRACKER = "latest"


def step_folder(root: Path, step: int) -> Path:
    """Folder of the checkpoint of one step."""
    return root / f"step_{step:08d}"


def incomplete(folder: Path) -> Path:
    """Where a checkpoint is written before it is complete."""
    return folder.with_name(folder.name + INCOMPLETE)


def complete_steps(root: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending. A folder gets its final name only when it is complete."""
    if not root.is_dir():
        return []
    matches = (_STEP.fullmatch(path.name) for path in root.iterdir() if path.is_dir())
    return sorted(int(match.group(1)) for match in matches if match)


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    match = _STEP.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def publish(folder: Path) -> None:
    """Give a completely written checkpoint its name, then point `latest` at it."""
    if folder.exists():
        shutil.rmtree(folder)
    incomplete(folder).rename(folder)
    write_text(folder.parent / _TRACKER, folder.name + "\n")
    sync_file(folder.parent)


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint of a run: the one `latest` names. None without any.

    Raises:
        ValueError: `latest` names a checkpoint that is not there.
    """
    tracker = root / _TRACKER
    if not tracker.is_file():
        return None
    name = read_text(tracker).strip()
    folder = root / name
    if not name or not folder.is_dir():
        raise ValueError(
            f"{tracker} names {name or 'nothing'}, which is not there; complete checkpoints: "
            f"{[step_folder(root, step).name for step in complete_steps(root)]}. "
            "Write the name of one of them into it, or delete it to start over"
        )
    return folder


def resolve(path: str | Path) -> Path:
    """A checkpoint folder from either itself or the folder of its run.

    Raises:
        ValueError: neither is at `path`.
    """
    folder = Path(path)
    if (folder / "config.yaml").is_file() and _STEP.fullmatch(folder.name):
        return folder
    if folder.name.endswith(INCOMPLETE):
        raise ValueError(f"{folder} is a checkpoint that was not completely written; name the folder of its run")
    found = latest(folder)
    if found is None:
        is_hugging_face = (folder / "config.json").is_file()
        raise ValueError(
            f"{folder} holds no complete checkpoint (no step_* folder that `latest` names)"
            + (", but a Hugging Face model; tools/convert_checkpoint.py makes one of it" if is_hugging_face else "")
        )
    return found


def remove_old(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints (0 keeps all), and what was left half-written."""
    for path in root.glob(f"step_*{INCOMPLETE}"):
        shutil.rmtree(path)
    current = latest(root)
    for step in complete_steps(root)[:-keep] if keep else []:
        folder = step_folder(root, step)
        if folder != current:
            # Renamed first: what is only half deleted must not look complete.
            shutil.rmtree(folder.rename(incomplete(folder)))
