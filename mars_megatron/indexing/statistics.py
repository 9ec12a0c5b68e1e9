"""Statistics of an index."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import (
    KIND_IMAGE,
    KIND_INTERLEAVED,
    KIND_PAIR,
    KIND_TEXT,
    MODE_IMAGE,
    MODE_LOW,
    MODE_PART_IMAGE,
    MODE_PART_TEXT,
    MODE_TEXT,
    NUM_IMAGES,
    document_kinds,
)
from mars_megatron.index.reader import open_index
from mars_megatron.index.writer import ENDINGS

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_FEW = 1 << 16  # values below it are counted in a table
_NUM_SOURCES = 10  # printed; the JSON has all


def inspect_index(prefix: str | Path) -> dict[str, Any]:
    """Statistics of an index, as plain values. The tokens are not read, and memory stays bounded.

    Distributions are {count, total, min, mean, p50, p90, p99, max}, and None where there is nothing to count.

    Returns:
        path, size_bytes {ending: bytes}, documents {kind: n}, sequences, images {high, low, parts},
        tokens {modality: n}, captions_per_image, parts_per_interleaved, caption_tokens, text_tokens, text_part_tokens
        (distributions of lengths), rows {task: distribution over every sample that the index can give},
        caption_weights, skipped, unknown, files, members, unread, text_tokenizer, image_tokenizer, settings, sources.

    Raises:
        ValueError: The index is not complete, or damaged.
    """
    index = open_index(prefix)
    manifest, arrays = index.manifest, index.arrays
    counted = _Counted()
    for first, end, first_sequence, end_sequence in arrays.document_blocks():
        sequences = slice(first_sequence, end_sequence)
        weights = None if index.weights is None else np.asarray(index.weights[sequences])
        boundaries = arrays.boundaries[first : end + 1] - first_sequence
        counted.add(arrays.lengths[sequences], arrays.modes[sequences], boundaries, weights)
    modes = counted.modes
    return {
        "path": str(prefix),
        "size_bytes": {
            ending: index.path(ending).stat().st_size for ending in (*ENDINGS, "json") if index.path(ending).exists()
        },
        "documents": dict(manifest.documents),
        "sequences": arrays.num_sequences,
        "images": {"high": modes[MODE_IMAGE], "low": modes[MODE_LOW], "parts": modes[MODE_PART_IMAGE]},
        "tokens": dict(manifest.tokens),
        "captions_per_image": counted.captions_per_image.summary(),
        "parts_per_interleaved": counted.parts.summary(),
        "caption_tokens": counted.captions.summary(),
        "text_tokens": counted.texts.summary(),
        "text_part_tokens": counted.text_parts.summary(),
        "rows": _rows(counted, manifest),
        "caption_weights": counted.weights.summary() if manifest.caption_weights else None,
        "skipped": dict(manifest.skipped),
        "unknown": dict(manifest.unknown),
        **{name: manifest.summed(name) for name in ("files", "members", "unread")},
        "text_tokenizer": asdict(manifest.text_tokenizer),
        "image_tokenizer": asdict(manifest.image_tokenizer) if manifest.image_tokenizer else None,
        "settings": dict(manifest.settings),
        "sources": [asdict(source) for source in manifest.sources],
    }


class _Histogram:
    """How often each value occurred; exact, and as large as the number of different values."""

    def __init__(self) -> None:
        self.values, self.counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        if not len(values):
            return
        if values.dtype.kind == "i" and values.min() >= 0 and values.max() < _FEW:
            table = np.bincount(values)
            new = np.flatnonzero(table)
            counts = table[new]
        else:
            new, counts = np.unique(values, return_counts=True)
        self.values, where = np.unique(np.concatenate([self.values, new]), return_inverse=True)
        self.counts = np.bincount(where, weights=np.concatenate([self.counts, counts])).astype(np.int64)

    def summary(self, plus: int = 0) -> dict[str, float] | None:
        """The distribution of the values, each increased by `plus`; None without any."""
        count = int(self.counts.sum())
        if not count:
            return None
        values = self.values + plus
        total = (values * self.counts).sum().item()
        ranks = np.cumsum(self.counts)
        quantiles = {
            name: values[np.searchsorted(ranks, np.ceil(part * count))].item() for name, part in _QUANTILES.items()
        }
        ends = {"min": values[0].item(), "mean": total / count}
        return {"count": count, "total": total, **ends, **quantiles, "max": values[-1].item()}


class _Counted:
    """Histograms over all documents."""

    def __init__(self) -> None:
        self.modes = [0] * (MODE_PART_IMAGE + 1)
        self.captions_per_image, self.parts = _Histogram(), _Histogram()
        self.captions, self.pair_captions, self.texts, self.text_parts = (_Histogram() for _ in range(4))
        self.interleaved_rows, self.weights = _Histogram(), _Histogram()

    def add(self, lengths: np.ndarray, modes: np.ndarray, boundaries: np.ndarray, weights: np.ndarray | None) -> None:
        """Count a run of documents: int32 [S], int8 [S], int64 [D + 1] from 0, float32 [S] or None."""
        lengths = lengths.astype(np.int64)
        kinds, sizes = document_kinds(modes, boundaries), np.diff(boundaries)
        for mode in range(len(self.modes)):
            self.modes[mode] += int(np.count_nonzero(modes == mode))
        kind_of_sequence = np.repeat(kinds, sizes)
        in_pair = kind_of_sequence == KIND_PAIR
        caption = (modes == MODE_TEXT) & ((kind_of_sequence == KIND_IMAGE) | in_pair)
        self.captions.add(lengths[caption])
        self.pair_captions.add(lengths[caption & in_pair])
        self.texts.add(lengths[(modes == MODE_TEXT) & (kind_of_sequence == KIND_TEXT)])
        self.text_parts.add(lengths[modes == MODE_PART_TEXT])
        with_image = NUM_IMAGES[kinds] > 0
        self.captions_per_image.add((sizes - NUM_IMAGES[kinds])[with_image])
        self.parts.add(sizes[kinds == KIND_INTERLEAVED])
        if (kinds == KIND_INTERLEAVED).any():  # BOI and EOI around each image
            rows = np.add.reduceat(lengths + 2 * (modes == MODE_PART_IMAGE), boundaries[:-1])
            self.interleaved_rows.add(rows[kinds == KIND_INTERLEAVED])
        if weights is not None:
            self.weights.add(weights[caption].astype(np.float64))


def _rows(counted: _Counted, manifest: Manifest) -> dict[str, dict[str, float] | None]:
    """Input rows of the samples of each task, one sample for each caption, laid out as in sequence.samples."""
    image = manifest.image_tokenizer
    codes = image.num_codes if image else 0
    low = image.num_low_codes if image else 0
    return {
        "t2i": counted.captions.summary(codes + 1),
        "i2t": counted.captions.summary(codes + 2),
        "sr": counted.pair_captions.summary(low + codes + 3),
        "text": counted.texts.summary(),
        "interleaved": counted.interleaved_rows.summary(),
    }


def describe(found: dict[str, Any]) -> str:
    """The result of `inspect_index` for a person."""
    size = found["size_bytes"]
    lines = [
        found["path"],
        f"  size            {sum(size.values()) / 1e6:,.1f} MB ("
        + ", ".join(f"{ending} {count / 1e6:,.1f}" for ending, count in size.items())
        + ")",
        f"  documents       {sum(found['documents'].values()):,} (" + _counts(found["documents"]) + ")",
        f"  sequences       {found['sequences']:,}",
        f"  images          {sum(found['images'].values()):,} ({_counts(found['images'])})",
        f"  tokens          {sum(found['tokens'].values()):,} ({_counts(found['tokens'])})",
        f"  text tokenizer  {_tokenizer(found['text_tokenizer'])}",
    ]
    if found["image_tokenizer"]:
        lines.append(f"  image tokenizer {_tokenizer(found['image_tokenizer'])}")
    lines += [f"  {name:<15} {value}" for name, value in sorted(found["settings"].items())]
    lines += _sources(found["sources"])
    lines.append(f"  left out        {_counts(found['skipped']) if found['skipped'] else 'nothing'}")
    if found["unknown"]:
        lines.append(f"  unknown         {_counts(found['unknown'])}")
    lines += [f"  {line}" for line in describe_files(found["files"], found["members"], found["unread"])]
    rows = {f"rows, {task}": values for task, values in found["rows"].items()}
    tables = {
        "captions per image": found["captions_per_image"],
        "parts, interleaved": found["parts_per_interleaved"],
        "tokens, captions": found["caption_tokens"],
        "tokens, texts": found["text_tokens"],
        "tokens, text parts": found["text_part_tokens"],
        **rows,
        "caption weights": found["caption_weights"],
    }
    columns = ("count", "min", "mean", "p50", "p90", "p99", "max")
    lines.append("  " + " " * 20 + "".join(f"{column:>12}" for column in columns))
    for name, values in tables.items():
        if values is not None:
            lines.append(f"  {name:<20}" + "".join(f"{_number(values[column]):>12}" for column in columns))
    return "\n".join(lines)


def describe_files(files: dict[str, int], members: dict[str, int], unread: dict[str, int]) -> list[str]:
    """Lines that tell the use of the files of the inputs; none for an index without these counts."""
    lines = []
    for name, counts in (("files", files), ("members of tar files", members)):
        if counts:
            read, captions, left_out = (counts.get(key, 0) for key in ("read", "captions", "left_out"))
            parts = f"{read:,} read + {captions:,} captions beside an image + {left_out:,} left out"
            lines.append(f"{name}: {sum(counts.values()):,} = {parts}")
    if unread:
        lines.append(f"not read: {', '.join(f'{what} ({count:,} times)' for what, count in sorted(unread.items()))}")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _tokenizer(info: dict[str, Any]) -> str:
    what = f"{info['size']:,} ids" if "size" in info else f"{info['codebook_size']:,} codes"
    if "grid" in info:
        what += f", {info['resolution']} px = {info['grid'][0]} x {info['grid'][1]} codes"
        if info["low_grid"]:
            what += f", low {info['low_resolution']} px = {info['low_grid'][0]} x {info['low_grid'][1]}"
    return f"{info['path']} ({what}, sha256 {info['fingerprint'][:12]})"


def _sources(sources: list[dict[str, Any]]) -> list[str]:
    size = sum(source["num_bytes"] for source in sources)
    lines = [f"  sources         {len(sources):,}, {size / 1e6:,.1f} MB"]
    for source in sources[:_NUM_SOURCES]:
        skipped = f", left out {_counts(source['skipped'])}" if source["skipped"] else ""
        lines.append(f"    {source['path']}: {source['samples']:,} samples{skipped}")
    if len(sources) > _NUM_SOURCES:
        lines.append(f"    ... and {len(sources) - _NUM_SOURCES:,} more")
    return lines
