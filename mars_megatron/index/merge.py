"""Several indices into one: the shards of a build, or indices of the same tokenizers and settings made at any time."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mars_megatron.files.hashes import file_sha256
from mars_megatron.index.manifest import ImageTokenizerInfo, Manifest
from mars_megatron.index.reader import BLOCK_BYTES, OpenedIndex, index_path, open_index
from mars_megatron.index.writer import Contents, IndexWriter

_MAKE_AGAIN = "remove it and make it again with tools/index_data.py"


@dataclass(frozen=True)
class _Part:
    """A part that was checked; its files are opened when they are used, as there may be more than open files may be.

    Args:
        prefix: Its path without ending.
        manifest: PREFIX.json.
    """

    prefix: str
    manifest: Manifest

    def path(self, ending: str) -> Path:
        return index_path(self.prefix, ending)

    def open(self) -> OpenedIndex:
        """Open it again.

        Raises:
            ValueError: It is not the index that was checked.
        """
        opened = open_index(self.prefix)
        if opened.manifest != self.manifest:
            raise ValueError(f"{self.prefix} was made again while it was merged; merge again")
        return opened


def merge_indices(
    prefixes: Sequence[str | Path], output: str | Path, *, progress: bool = True, overwrite: bool = False
) -> Manifest:
    """Write the documents of several indices, in the order given, as one index.

    Tokens are copied in large blocks, and what was copied is compared with the checksums of the parts, so damage does
    not travel on under a new checksum. Files appear under their names when complete, the manifest last. An output that
    is exactly this merge already is left as it is.

    Args:
        prefixes: The parts. One without documents is fine: what was left out there is counted.
        output: Prefix of the result.
        progress: Show a progress bar.
        overwrite: Replace an index that is at `output`.

    Returns:
        The manifest of the result.

    Raises:
        ValueError: A part is not complete, damaged, given twice, or of other tokenizers or settings than the first; two
            parts come from the same source; there is no document in any; an index is at `output`, or another process
            is writing there.
    """
    parts = _open_parts(prefixes, output)
    _check_alike(parts)
    total = sum(part.manifest.num_documents for part in parts)
    if not total:
        skipped = dict(sum((Counter(part.manifest.skipped) for part in parts), Counter()))
        raise ValueError(f"nothing to merge into {output}: no part has a document (left out: {skipped or 'nothing'})")
    if index_path(output, "json").exists() and not overwrite:
        if _is_merge(parts, output, progress):
            return Manifest.read(index_path(output, "json"))
        raise ValueError(f"{output}.json exists and is not the merge of these parts; give another output or overwrite")
    writer = IndexWriter(output)
    try:
        _copy(parts, writer, progress)
        for part in parts:
            part.open()  # still what was copied
        return writer.commit(lambda contents: _manifest(parts, contents))
    finally:
        writer.discard()


def already_merged(prefixes: Sequence[str | Path], output: str | Path, *, progress: bool = True) -> bool:
    """Whether the index at `output` is exactly the merge of these parts, by counts, arrays and checksums.

    Raises:
        ValueError: As `merge_indices` about the parts.
    """
    if not index_path(output, "json").exists():
        return False
    return _is_merge(_open_parts(prefixes, output), output, progress)


def shards_folder(output: str | Path) -> Path:
    """Where a build keeps the shards of an index."""
    return Path(f"{output}.shards")


def shard_prefixes(output: str | Path) -> list[Path]:
    """Prefixes of the shards of a build, one for each entry of PREFIX.shards/inputs.json, in its order.

    Raises:
        ValueError: There is no such list, or a shard is not complete.
    """
    listed = shards_folder(output) / "inputs.json"
    if not listed.is_file():
        raise ValueError(f"{listed} is missing: no build has made shards for {output}; give the parts with --inputs")
    try:
        inputs = list(json.loads(listed.read_text(encoding="utf-8"))["inputs"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{listed} is not the list of a build ({{"inputs": [paths], ...}}): {error!r}') from error
    prefixes = [shards_folder(output) / f"{number:06d}" for number in range(len(inputs))]
    missing = [number for number, prefix in enumerate(prefixes) if not index_path(prefix, "json").is_file()]
    if missing:
        names = ", ".join(f"{prefixes[number].name} ({inputs[number]})" for number in missing[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise ValueError(
            f"{len(missing)} of the {len(inputs)} shards in {shards_folder(output)} are not complete: {names}{more}. "
            "Run `tools/index_data.py build` with the same options again: it makes those and keeps the finished ones"
        )
    return prefixes


def remove_shards(output: str | Path) -> None:
    """Remove the shards of a merged index: at once to whoever looks for them, also when this is interrupted."""
    removed = Path(f"{shards_folder(output)}.removed")
    if removed.exists():
        shutil.rmtree(removed)
    if shards_folder(output).exists():
        shards_folder(output).rename(removed)
        shutil.rmtree(removed)


def _open_parts(prefixes: Sequence[str | Path], output: str | Path) -> list[_Part]:
    """Check the files of the parts that are small, part by part; the .bin files are checked when they are copied."""
    if not prefixes:
        raise ValueError(f"nothing to merge into {output}: no part was given")
    resolved: set[Path] = set()
    for prefix in prefixes:
        path = Path(prefix).resolve()
        if path == Path(output).resolve():
            raise ValueError(f"{prefix} is a part and the output; give another output")
        if path in resolved:
            raise ValueError(f"{prefix} is given twice as a part; its documents would be in the output twice")
        resolved.add(path)
    return [_check_part(open_index(prefix)) for prefix in prefixes]


def _check_part(part: OpenedIndex) -> _Part:
    manifest = part.manifest
    for ending in ("idx", "weights.npy", "skipped.jsonl"):
        path = part.path(ending)
        if path.exists() or ending in manifest.sha256:
            if not path.is_file():
                raise ValueError(f"{path} is missing, the manifest has its checksum; {_MAKE_AGAIN}")
            _same_checksum(path, ending, file_sha256(path), manifest)
    arrays = part.arrays
    contents = Contents(arrays.lengths, arrays.modes, np.asarray(arrays.boundaries), False, {}, {})
    for name, found, said in (
        ("documents", contents.documents(), {kind: count for kind, count in manifest.documents.items() if count}),
        ("tokens", contents.tokens(), manifest.tokens),
    ):
        if found != said:
            raise ValueError(f"{part.path('idx')} has {name} {found}, its manifest says {said}; {_MAKE_AGAIN}")
    return _Part(part.prefix, manifest)


def _same_checksum(path: Path, ending: str, found: str, manifest: Manifest) -> None:
    said = manifest.sha256.get(ending)
    if found != said:
        raise ValueError(
            f"{path} is damaged or not of this index: its sha256 is {found}, its manifest says {said}; {_MAKE_AGAIN}"
        )


def _check_alike(parts: list[_Part]) -> None:
    """Refuse parts whose documents do not belong into one index, naming two of them and what differs."""
    image_part: _Part | None = None
    low_part: _Part | None = None
    sources: dict[tuple[str, str], _Part] = {}
    for part in parts:
        manifest = part.manifest
        _same_fields(parts[0], part, "text_tokenizer", ("fingerprint", "size", "eos_id", "bos_id"))
        if manifest.image_tokenizer is not None:
            image_part = image_part or part
            names = ("fingerprint", "codebook_size", "grid", "resolution")
            _same_fields(image_part, part, "image_tokenizer", names)
            if manifest.image_tokenizer.low_grid is not None:
                low_part = low_part or part
                _same_fields(low_part, part, "image_tokenizer", ("low_grid", "low_resolution"))
        first = parts[0].manifest.settings
        for name in sorted({*first, *manifest.settings}):
            _same(parts[0], part, f"settings.{name}", first.get(name), manifest.settings.get(name))
        for source in manifest.sources:
            other = sources.setdefault((source.path, source.sha256), part)
            if other is not part and source.samples:
                raise ValueError(
                    f"{other.prefix} and {part.prefix} both have samples of {source.path}, which would be in the "
                    "output twice; leave one of them out"
                )


def _same_fields(first: _Part, part: _Part, tokenizer: str, names: tuple[str, ...]) -> None:
    infos = [getattr(opened.manifest, tokenizer) for opened in (first, part)]
    for name in names:
        _same(first, part, f"{tokenizer}.{name}", *(getattr(info, name) for info in infos))


def _same(first: _Part, part: _Part, name: str, value: Any, other: Any) -> None:
    if value != other:
        raise ValueError(
            f"{first.path('json')} and {part.path('json')} cannot be merged: {name} is {value!r} in the one, {other!r} "
            "in the other; only indices of the same tokenizers and settings can"
        )


def _copy(parts: list[_Part], writer: IndexWriter, progress: bool) -> None:
    size = sum(part.path("bin").stat().st_size for part in parts)
    with (
        tqdm(total=size, desc="merge", unit="B", unit_scale=True, disable=not progress, mininterval=0.5) as bar,
        ThreadPoolExecutor(1) as pool,
    ):
        for part in parts:
            opened = part.open()
            arrays, blocks = opened.arrays, _blocks(part, pool, bar)
            writer.append(blocks, arrays.lengths, arrays.modes, np.asarray(arrays.boundaries), opened.weights)
            if part.path("skipped.jsonl").exists():
                writer.append_log(part.path("skipped.jsonl"), part.manifest.skipped)


def _blocks(part: _Part, pool: ThreadPoolExecutor, bar: tqdm) -> Iterator[memoryview]:
    """The bytes of a part's .bin, each block valid until the next; raises where they are not those of its manifest."""
    digest = hashlib.sha256()
    view = memoryview(bytearray(BLOCK_BYTES))
    with part.path("bin").open("rb", buffering=0) as file:
        while count := file.readinto(view):
            block = view[:count]
            hashed = pool.submit(digest.update, block)  # beside the checksum of the result; both let go of the GIL
            yield block
            hashed.result()
            bar.update(count)
    _same_checksum(part.path("bin"), "bin", digest.hexdigest(), part.manifest)


def _manifest(parts: list[_Part], contents: Contents) -> Manifest:
    return replace(
        _combined(parts),
        documents=contents.documents(),
        tokens=contents.tokens(),
        skipped=contents.skipped,
        caption_weights=contents.has_weights,
        sha256=contents.sha256,
    )


def _combined(parts: list[_Part]) -> Manifest:
    """The manifest of the merge, by the parts' manifests, without checksums."""
    manifests = [part.manifest for part in parts]
    images = [manifest.image_tokenizer for manifest in manifests if manifest.image_tokenizer is not None]
    image: ImageTokenizerInfo | None = images[0] if images else None
    for other in images:
        if image is not None and image.low_grid is None and other.low_grid is not None:
            image = replace(image, low_grid=other.low_grid, low_resolution=other.low_resolution)

    def added(name: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for manifest in manifests:
            for key, count in getattr(manifest, name).items():
                counts[key] = counts.get(key, 0) + count
        return {key: count for key, count in counts.items() if count or name == "tokens"}

    return Manifest(
        documents=added("documents"),
        tokens=added("tokens"),
        # of a former version, if one is: training then checks how it was read
        text_tokenizer=min((manifest.text_tokenizer for manifest in manifests), key=lambda info: bool(info.content)),
        image_tokenizer=image,
        skipped=added("skipped"),
        unknown=added("unknown"),
        sources=tuple(source for manifest in manifests for source in manifest.sources),
        settings=manifests[0].settings,
        caption_weights=any(manifest.caption_weights for manifest in manifests),
    )


def _is_merge(parts: list[_Part], output: str | Path, progress: bool) -> bool:
    """Whether the index at `output` has the manifest, arrays and weights of the merge, and the sha256 of its tokens."""
    try:
        found = open_index(output)
    except ValueError:
        return False
    if replace(found.manifest, sha256={}) != _combined(parts):
        return False
    sequences = documents = 0
    for part in (closed.open() for closed in parts):
        size, count = part.arrays.num_sequences, part.arrays.num_documents
        here = slice(sequences, sequences + size)
        boundaries = found.arrays.boundaries[documents : documents + count + 1]
        same = (
            np.array_equal(found.arrays.lengths[here], part.arrays.lengths)
            and np.array_equal(found.arrays.modes[here], part.arrays.modes)
            and np.array_equal(boundaries, part.arrays.boundaries + sequences)
            and (found.weights is None or np.array_equal(found.weights[here], _weights(part)))
        )
        if not same:
            return False
        sequences, documents = sequences + size, documents + count
    if sequences != found.arrays.num_sequences:
        return False
    if file_sha256(found.path("idx")) != found.manifest.sha256.get("idx"):
        return False
    digests = {ending: _joint_sha256(parts, ending, progress) for ending in ("bin", "skipped.jsonl")}
    return all(found.manifest.sha256.get(ending) == digest for ending, digest in digests.items())


def _weights(part: OpenedIndex) -> np.ndarray:
    return np.ones(part.arrays.num_sequences, np.float32) if part.weights is None else part.weights


def _joint_sha256(parts: list[_Part], ending: str, progress: bool) -> str | None:
    """sha256 of the parts' files one after the other; None where none has one."""
    paths = [part.path(ending) for part in parts if part.path(ending).exists()]
    digest = hashlib.sha256()
    size = sum(path.stat().st_size for path in paths)
    with tqdm(total=size, desc=f"compare {ending}", unit="B", unit_scale=True, disable=not progress) as bar:
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    bar.update(len(block))
    return digest.hexdigest() if paths else None
