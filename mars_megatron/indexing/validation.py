"""Reads all of an index, and reports every problem."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mars_megatron.files.hashes import file_sha256
from mars_megatron.index.content_checks import (
    Validation,
    check_documents,
    check_pointers,
    check_tokens,
    checksum_problem,
)
from mars_megatron.index.manifest import Manifest, manifest_problems
from mars_megatron.index.modes import MODE_TEXT
from mars_megatron.index.reader import BLOCK_SEQUENCES, IndexArrays, index_path, read_arrays, read_weights
from mars_megatron.index.writer import ENDINGS
from mars_megatron.indexing.sources.folder import folder_sha256


def validate_index(prefix: str | Path, *, sources: bool = False, progress: bool = True) -> Validation:
    """Read all files of an index and compare them with each other and with the manifest.

    Memory stays bounded whatever the size of the index; whatever is broken becomes a problem, not an exception.

    Args:
        prefix: The index.
        sources: Also compute the checksums of the files that it was made from.
        progress: Show a progress bar.
    """
    found = Validation(str(prefix))
    manifest: Manifest | None = None
    arrays: IndexArrays | None = None
    with found.catching():
        manifest = Manifest.read(index_path(prefix, "json"))
        wrong = list(manifest_problems(manifest))
        if wrong:
            found.problems += [f"{prefix}.json: {value}" for value in wrong]
            manifest = None
    with found.catching():
        arrays = read_arrays(index_path(prefix, "idx"))
    if arrays is not None:
        sound = check_pointers(arrays, found, f"{prefix}.idx")
        if sound:
            check_documents(arrays, manifest, found, f"{prefix}.idx")
    with found.catching():
        check_tokens(prefix, arrays, manifest, found, progress)
    if manifest is not None:
        with found.catching():
            _check_weights(prefix, arrays, manifest, found)
        with found.catching():
            _check_log(prefix, manifest, found)
        for ending in ENDINGS[1:]:
            with found.catching():
                _check_file(prefix, ending, manifest, found)
        samples = sum(source.samples for source in manifest.sources)
        if manifest.sources and samples != manifest.num_documents:
            found.problems.append(
                f"{prefix}.json: the sources have {samples} samples, the index has {manifest.num_documents} documents"
            )
        if sources:
            _check_sources(manifest, found, progress)
        found.summary = (
            f"{manifest.num_documents:,} documents, {manifest.tokens['text']:,} text and "
            f"{manifest.tokens['visual']:,} visual tokens" + (f", {len(manifest.sources)} sources" if sources else "")
        )
    found.finish()
    return found


def _check_weights(prefix: str | Path, arrays: IndexArrays | None, manifest: Manifest, found: Validation) -> None:
    """Captions weigh something, everything else 1."""
    path = index_path(prefix, "weights.npy")
    if not manifest.caption_weights:
        if path.exists():
            found.problems.append(f"{path} exists, the manifest says that there are no caption weights")
        return
    if arrays is None:
        return
    weights = read_weights(path, arrays)
    for first in range(0, len(weights), BLOCK_SEQUENCES):
        here = slice(first, first + BLOCK_SEQUENCES)
        values, modes = np.asarray(weights[here]), arrays.modes[here]
        wrong = ~(np.isfinite(values) & (values > 0))
        found.many(f"{path}: a weight that is not a finite number above 0", "sequence", wrong, first)
        other = (modes != MODE_TEXT) & (values != 1)
        found.many(f"{path}: a weight other than 1 of what is no caption", "sequence", other, first)


def _check_log(prefix: str | Path, manifest: Manifest, found: Validation) -> None:
    """One line for each sample left out."""
    path = index_path(prefix, "skipped.jsonl")
    reasons: Counter[str] = Counter()
    if path.is_file():
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    reasons[str(json.loads(line)["reason"])] += 1
                except (ValueError, TypeError, KeyError):
                    raise ValueError(f"line {number} of {path} is not a JSON object with a reason") from None
    if reasons != Counter(manifest.skipped):
        found.problems.append(f"{path} has {dict(reasons)}, the manifest says {manifest.skipped}")


def _check_file(prefix: str | Path, ending: str, manifest: Manifest, found: Validation) -> None:
    """The checksum of a file beside the .bin."""
    path = index_path(prefix, ending)
    said = manifest.sha256.get(ending)
    if path.is_file():
        sha256 = file_sha256(path)
        if sha256 != said:
            found.problems.append(checksum_problem(path, sha256, said))
    elif said is not None and ending != "idx":  # a missing .idx is known by now
        found.problems.append(f"{path} is missing, the manifest has its checksum")


def _check_sources(manifest: Manifest, found: Validation, progress: bool) -> None:
    """Whether the inputs are there and still what they were."""
    size = sum(source.num_bytes for source in manifest.sources)
    with tqdm(total=size, desc="read sources", unit="B", unit_scale=True, disable=not progress) as bar:
        for source in manifest.sources:
            with found.catching():
                path = Path(source.path)
                if not path.exists():
                    found.problems.append(f"source {path} is missing")
                    continue
                if path.is_dir():
                    same = folder_sha256(path) == source.sha256
                else:
                    same = path.stat().st_size == source.num_bytes and file_sha256(path) == source.sha256
                if not same:
                    found.problems.append(f"source {path} is no longer what it was when the index was made")
            bar.update(source.num_bytes)
