"""Results as JSON files, with fingerprints of their inputs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mars_megatron.checkpoint import resolve
from mars_megatron.checkpoint.compatible import CONFIG_FILE
from mars_megatron.checkpoint.folders import complete_steps
from mars_megatron.config.schema import RunConfig
from mars_megatron.config.user_code import source_file
from mars_megatron.data.blend import corpora_of
from mars_megatron.evaluation.intervals import LEVEL, Estimate
from mars_megatron.evaluation.jobs import Job
from mars_megatron.files.hashes import content_fingerprint, value_fingerprint
from mars_megatron.files.plain_text import read_json
from mars_megatron.files.writing import write_text

_INDEX = (".json", ".bin", ".idx")  # what a prefix of an index stands for
# Among the settings they say where they were; what they are is among the inputs.
TOKENIZERS = ("text_tokenizer", "image_tokenizer")


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
        inputs: Fingerprint of the files that each option names, of the tokenizers, and of the run's data if the suite
            takes them.
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

    def key(self) -> str:
        """A short name of what it is computed from, as `differences` compares it."""
        settings = {name: value for name, value in self.settings.items() if name not in TOKENIZERS}
        return value_fingerprint([self.suite, self.options, self.inputs, settings, self.model.fingerprint])

    def differences(self, other: Report) -> list[str]:
        """In what two results were computed from other things."""
        found = ["suite"] if self.suite != other.suite else []
        for part in ("options", "inputs", "settings"):
            ours, theirs = getattr(self, part), getattr(other, part)
            names = [name for name in {**ours, **theirs} if part != "settings" or name not in TOKENIZERS]
            found += [f"{part}.{name}" for name in names if ours.get(name) != theirs.get(name)]
        if self.model.fingerprint != other.model.fingerprint:
            found.append("the model")
        return found

    def write(self, file: Path) -> None:
        """Write it; the file has its name only when it is complete."""
        write_text(file, json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n")


def expected(job: Job, model: ModelIdentity, config: RunConfig) -> Report:
    """What a job's result is computed from, without the result."""
    options = asdict(job.suite)  # type: ignore[call-overload]
    written = {field.name for field in dataclasses.fields(job.suite) if field.metadata.get("written")}  # type: ignore[arg-type]
    settings = asdict(config.generation)
    settings |= {name: getattr(config.data, name) for name in TOKENIZERS}
    for name in ("batch_size", "text_temperature"):  # decide nothing here
        del settings[name]
    read = {name: value for name, value in options.items() if name not in written}
    for field in dataclasses.fields(job.suite):  # type: ignore[arg-type]
        if field.metadata.get("or_data_of_run") and not options[field.name]:
            read["data"] = (config.data.validation_path, *(corpus.path for corpus in corpora_of(config.data)))
    if job.source:
        read["suite"] = job.source
    read["text_tokenizer"] = config.data.text_tokenizer
    if job.needs_image_tokenizer:
        read["image_tokenizer"] = config.data.image_tokenizer
    inputs = {name: found for name, value in read.items() if (found := _fingerprints(value))}
    return Report(job.suite.name, json.loads(json.dumps(options)), inputs, settings, model)


def read_report(file: Path) -> Report:
    """Read what `Report.write` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        content = read_json(file)
        content["model"] = ModelIdentity(**content["model"])
        content["scores"] = {name: Estimate(**value) for name, value in content["scores"].items()}
        return Report(**content)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} is no result of an evaluation ({error}); move it away, or give another --output"
        ) from error


def _fingerprints(value: Any) -> str:
    """Of all that an option's value names; empty where that is nothing."""
    if isinstance(value, tuple):
        found = [_fingerprints(item) for item in value]
        return value_fingerprint(found) if any(found) else ""
    return fingerprint_of(value) if isinstance(value, str) and value else ""


def fingerprint_of(name: str | Path) -> str:
    """Of what an option names, by content; empty where it is nothing that is here.

    That is a file, a folder (of a run: its latest checkpoint), an index by its prefix, the module of a user's function,
    or one of these behind or in front of a colon: "inception:FILE", "module:class:FOLDER".
    """
    path = Path(name).expanduser()
    if path.is_dir():
        # A run's folder also has logs and results, which change without the model.
        folder = resolve(path) if complete_steps(path) else path
        return content_fingerprint(folder, sampled=(folder / CONFIG_FILE).is_file())
    if path.is_file():
        return content_fingerprint(path, sampled=False)
    parts = [path.with_name(path.name + ending) for ending in _INDEX] if path.name else []
    if found := [content_fingerprint(part) for part in parts if part.is_file()]:
        return value_fingerprint(found)
    front, _, behind = str(name).rpartition(":")
    source = source_file(str(name))  # `check` has imported it
    found = [fingerprint_of(source), ""] if source else [fingerprint_of(part) for part in (front, behind) if front]
    return value_fingerprint(found) if any(found) else ""


def table(scores: Mapping[str, Estimate]) -> str:
    """One line for each score: its name, value, confidence interval and number of observations."""
    rows = [("score", "value", f"{LEVEL:.0%} interval", "n")]
    for name, score in scores.items():
        known = score.low is not None and score.high is not None
        interval = f"{_number(score.low)} .. {_number(score.high)}" if known else ""
        rows.append((name, _number(score.value), interval, str(score.count) if score.count else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:>{widths[2]}}  {count:>{widths[3]}}".rstrip()
        for name, value, interval, count in rows
    )


def _number(value: float | None) -> str:
    assert value is not None
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"
