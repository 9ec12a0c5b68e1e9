"""Results as JSON files, with what they were computed from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mars_megatron.config.schema import RunConfig
from mars_megatron.evaluation.context import digest
from mars_megatron.evaluation.intervals import Estimate
from mars_megatron.evaluation.registry import Job

_LARGE = 1 << 26  # bytes; of larger files size and time are looked at, not the content
_INDEX = (".json", ".bin", ".idx")  # what a prefix of an index stands for


@dataclass(frozen=True)
class ModelIdentity:
    """The model that is scored.

    Args:
        checkpoint: Its folder; empty for one that is in training.
        step: Optimiser steps done.
        fingerprint: Changes with its files.
    """

    checkpoint: str
    step: int
    fingerprint: str


@dataclass(frozen=True)
class Report:
    """A result, as its file has it.

    Args:
        suite: Name of the suite.
        options: Of the suite.
        inputs: Fingerprint of the files that each option names.
        settings: Sampling settings and tokenizers in force.
        model: See `ModelIdentity`.
        scores: Estimate by name.
        details: Of the suite.
        seconds: How long it took, behind the last interruption.
        config: Settings of the checkpoint, nested.
    """

    suite: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    model: ModelIdentity
    scores: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def differences(self, other: Report) -> list[str]:
        """In what two results were computed from other things."""
        found = ["suite"] if self.suite != other.suite else []
        for part in ("options", "inputs", "settings"):
            ours, theirs = getattr(self, part), getattr(other, part)
            found += [f"{part}.{name}" for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if self.model.fingerprint != other.model.fingerprint:
            found.append("the model")
        return found

    def write(self, file: Path) -> None:
        """Write it; the file has its name only when it is complete."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(file.name + ".tmp")
        temporary.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, file)


def expected(job: Job, model: ModelIdentity, config: RunConfig) -> Report:
    """What a job's result is computed from, without the result."""
    options = asdict(job.suite)  # type: ignore[call-overload]
    written = {field.name for field in dataclasses.fields(job.suite) if field.metadata.get("written")}  # type: ignore[arg-type]
    settings = asdict(config.generation)
    settings |= {name: getattr(config.data, name) for name in ("text_tokenizer", "image_tokenizer")}
    del settings["batch_size"]  # decides nothing but the speed
    read = {name: value for name, value in options.items() if name not in written}
    inputs = {name: found for name, value in read.items() if (found := _fingerprints(value))}
    return Report(job.suite.name, json.loads(json.dumps(options)), inputs, settings, model)


def read_report(file: Path) -> Report:
    """Read what `Report.write` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["model"] = ModelIdentity(**content["model"])
        content["scores"] = {name: Estimate(**value) for name, value in content["scores"].items()}
        return Report(**content)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no result of an evaluation; move it away, or give another --output") from error


def _fingerprints(value: Any) -> str:
    """Of all that an option's value names; empty where that is nothing."""
    if isinstance(value, tuple):
        found = [_fingerprints(item) for item in value]
        return digest(found) if any(found) else ""
    return fingerprint_of(value) if isinstance(value, str) and value else ""


def fingerprint_of(path: str | Path) -> str:
    """Of a file its content, of a folder its direct entries, of an index its files; empty where there is nothing."""
    path = Path(path).expanduser()
    if path.is_dir():
        return digest(sorted(_stamp(entry) for entry in path.iterdir()))
    if path.is_file():
        if path.stat().st_size > _LARGE:
            return digest(_stamp(path))
        return hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    parts = [path.with_name(path.name + ending) for ending in _INDEX]
    found = [_stamp(part) for part in parts if part.is_file()]
    return digest(found) if found else ""


def _stamp(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns
