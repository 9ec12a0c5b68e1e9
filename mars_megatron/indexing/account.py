"""Counts of the files of an input by their use: read, captions, left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from mars_megatron.indexing.records import Skip, Usage
from mars_megatron.indexing.sources.inputs import InputShard
from mars_megatron.indexing.sources.listing import count_files

_MANY = 100  # kinds of what is not read that are named


class FileAccount:
    """The files of one input: read, captions beside an image that is read, or left out.

    Args:
        shard: The input.
    """

    def __init__(self, shard: InputShard) -> None:
        self._shard = shard
        self._images: set[str] = set()
        self._captions: set[str] = set()
        self._lost: set[str] = set()
        self._members: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._files: dict[str, int] = {}
        self._by_name = shard.kind == "folder" or shard.listed

    def add(self, usage: Usage) -> None:
        """Add the use of the files of a batch."""
        if self._by_name:
            self._images.update(usage.images)
            self._captions.update(usage.captions)
            self._lost.update(usage.lost)
        else:
            self._members.update(read=len(usage.images), captions=len(usage.captions))
        for what, count in usage.unread.items():
            named = what in self._unread or len(self._unread) < _MANY
            self._unread[what if named else "others"] += count

    def close(self) -> Iterator[Skip]:
        """Count the files when all batches are through; what no record names is left out now."""
        shard, listing = self._shard, self._shard.listing()
        beside = 0 if shard.beside is None else count_files(shard.beside.skips)
        if listing is None:
            self._files = _counts(1, 0, 1 + beside)
            return
        there = set(listing.files)
        total = len(there) + count_files(listing.hidden) + beside
        images, captions = self._images & there, self._captions & there
        if shard.listed:
            own = os.path.basename(shard.path)
            yield from listing.left_out(images | self._lost | {own}, beside_records=True)
            images.add(own)
        self._files = _counts(len(images), len(captions - images), total)

    def files(self) -> dict[str, int]:
        """read, captions and left_out, of the files of the input."""
        return self._files

    def members(self, total: int) -> dict[str, int]:
        """The same of the members of a tar file; empty for other inputs."""
        return _counts(self._members["read"], self._members["captions"], total) if self._shard.kind == "tar" else {}

    def unread(self) -> dict[str, int]:
        """What is there but not read, by kind, and how often."""
        return dict(sorted(self._unread.items()))


def _counts(read: int, captions: int, total: int) -> dict[str, int]:
    return {"read": read, "captions": captions, "left_out": total - read - captions}
