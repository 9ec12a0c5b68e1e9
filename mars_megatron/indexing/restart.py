"""Finds the finished parts of a build, and checks that they belong to this build."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mars_megatron.files.writing import write_once, write_text
from mars_megatron.index.manifest import Manifest, SourceInfo
from mars_megatron.index.reader import open_index
from mars_megatron.indexing.index_output import Recipe, remove_index
from mars_megatron.indexing.records import HARMLESS
from mars_megatron.indexing.sources.inputs import InputShard
from mars_megatron.tokenizers.text_checks import first_difference, where_made

_REPLACE = "give another output, or --overwrite to replace it"


def is_finished(prefix: str, shards: list[InputShard], recipe: Recipe, say: Callable[[str], None]) -> bool:
    """Whether the index of these inputs is there and whole, made from the same inputs in the same way.

    A damaged one counts as not there, so that it is made again; `say` takes the message about it. Sizes are compared,
    checksums are not: those are for merging and validation.

    Raises:
        ValueError: It is there, but was made from something else or in another way; the message says what differs.
            With options.overwrite it counts as not there. Or something was left out, and options.strict forbids it.
    """
    if not os.path.exists(f"{prefix}.json"):
        return False
    try:
        manifest = Manifest.read(Path(f"{prefix}.json"))
        difference = _difference(manifest, shards, recipe)
    except ValueError as error:
        if recipe.options.overwrite:
            return False
        raise ValueError(f"{error}; {_REPLACE}") from error
    if difference is not None:
        if recipe.options.overwrite:
            return False
        raise ValueError(f"{prefix} is there, but {difference}; {_REPLACE}")
    damage = _damage(prefix, manifest)
    if damage is not None:
        say(f"{prefix} is made again: {damage}")
        return False
    _check_strict(prefix, manifest, recipe)
    return True


def _damage(prefix: str, manifest: Manifest) -> str | None:
    """What is missing or truncated of an index, in words."""
    missing = [ending for ending in manifest.sha256 if not os.path.isfile(f"{prefix}.{ending}")]
    if missing:
        return f"{prefix}.{missing[0]} is missing"
    try:
        open_index(prefix)
    except ValueError as error:
        return str(error)
    return None


def _check_strict(prefix: str, manifest: Manifest, recipe: Recipe) -> None:
    skipped = {reason: count for reason, count in manifest.skipped.items() if reason not in HARMLESS}
    if recipe.options.strict and skipped:
        raise ValueError(f"{prefix} is there, but {skipped} was left out of it, see {prefix}.skipped.jsonl (--strict)")


def _difference(manifest: Manifest, shards: list[InputShard], recipe: Recipe) -> str | None:
    """What keeps an index from being that of these inputs, in words."""
    made, wanted = manifest.settings, recipe.options.settings()
    for name in sorted({*made, *wanted}):
        if made.get(name) != wanted.get(name):
            return f"was made with {name} {made.get(name)!r}, not {wanted.get(name)!r}"
    text = manifest.text_tokenizer
    if text.fingerprint != recipe.text_tokenizer.fingerprint:
        return f"was made with another text tokenizer ({text.path})"
    if not text.content and first_difference(where_made(text.path, text.fingerprint, recipe.text_tokenizer.path)):
        return "has ids of a former version, which read the text tokenizer in another way than its file says"
    image = recipe.image_tokenizer
    if manifest.image_tokenizer is not None and (
        image is None or manifest.image_tokenizer.fingerprint != image.fingerprint
    ):
        return f"was made with another image tokenizer ({manifest.image_tokenizer.path})"
    if len(manifest.sources) != len(shards):
        given = f"{shards[0].path} alone" if len(shards) == 1 else str(len(shards))
        return f"was made from {len(manifest.sources)} inputs, not from {given}"
    differences = (_source_difference(*pair) for pair in zip(manifest.sources, shards, strict=True))
    return next((difference for difference in differences if difference is not None), None)


def _source_difference(source: SourceInfo, shard: InputShard) -> str | None:
    same_time = source.modified_ns == shard.modified_ns
    if source.num_bytes == shard.num_bytes:
        if source.path == shard.path and same_time:
            return None
        # The checksum of a folder covers the names and sizes of its images, not what is in them.
        if (same_time or shard.kind != "folder") and source.sha256 == shard.sha256():
            return None
    if source.path == shard.path:
        return f"{shard.path} has changed since"
    return f"was made from {source.path}, not from {shard.path}"


def agree_on_inputs(folder: Path, shards: list[InputShard], recipe: Recipe) -> None:
    """Write the list of the inputs, or compare with the one that is there: every host must build the same thing.

    Args:
        folder: PREFIX.shards.
        shards: All inputs, in order.
        recipe: With what they are indexed.

    Raises:
        ValueError: Another list is there, and options.overwrite is not given; the message says what differs.
    """
    image = recipe.image_tokenizer
    wanted: dict[str, Any] = {
        "inputs": [shard.path for shard in shards],
        "num_bytes": [shard.num_bytes for shard in shards],
        "settings": recipe.options.settings(),
        "text_tokenizer": recipe.text_tokenizer.fingerprint,
        "image_tokenizer": None if image is None else image.fingerprint,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "inputs.json", json.dumps(wanted, ensure_ascii=False, indent=1)
    if path.exists() or not write_once(path, text):
        difference = _compare(path, wanted)
        if difference is None:
            return
        if not recipe.options.overwrite:
            raise ValueError(f"{path} is of another build: {difference}; {_REPLACE}")
        write_text(path, text, unique=True)
    _remove_others(folder, len(shards))


def _compare(path: Path, wanted: dict[str, Any]) -> str | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names, sizes = [os.path.basename(name) for name in found["inputs"]], found["num_bytes"]
        settings = dict(found["settings"])
    except (ValueError, TypeError, KeyError) as error:
        return f"it is not a list of inputs ({error!r})"
    if len(names) != len(wanted["inputs"]):
        return f"it has {len(names)} inputs, not {len(wanted['inputs'])}"
    for number, (name, size, given, num_bytes) in enumerate(
        zip(names, sizes, wanted["inputs"], wanted["num_bytes"], strict=True)
    ):
        if (name, size) != (os.path.basename(given), num_bytes):
            return f"its input {number} is {name} of {size} bytes, not {given} of {num_bytes} bytes"
    for name in sorted({*settings, *wanted["settings"]}):
        if settings.get(name) != wanted["settings"].get(name):
            return f"its {name} is {settings.get(name)!r}, not {wanted['settings'].get(name)!r}"
    for name in ("text_tokenizer", "image_tokenizer"):
        if found.get(name) != wanted[name]:
            return f"its {name.replace('_', ' ')} is another one"
    return None


def _remove_others(folder: Path, count: int) -> None:
    """Remove the shards of inputs that are no more."""
    for path in folder.glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) >= count:
            remove_index(str(path.with_suffix("")))
