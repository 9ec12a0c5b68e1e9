"""Records that name their images by files: lines of JSONL, and rows of metadata.csv and metadata.parquet."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import Any

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Files, Refused, Sample, Where
from mars_megatron.indexing.sources.fields import (
    FILE_NAME,
    convention_caption,
    count_keys,
    file_name_columns,
    find_named_image,
    image_names,
    known_fields,
    low_name_column,
    make_convention_sample,
    make_sample,
)
from mars_megatron.indexing.sources.listing import looks_like_image


class NamingRecords:
    """Makes samples of records that name their images, and keeps what they name.

    Args:
        file: The file that they are from.
        options: Of the build.
        metadata: Whether each is a row of the image-folder convention.
        counts_files: Whether the images that they name are counted.
    """

    def __init__(self, file: str, options: BuildOptions, metadata: bool, counts_files: bool) -> None:
        self._metadata, self._counts_files, self._options = metadata, counts_files, options
        self._folder = os.path.dirname(file)
        self._keys: list[str] = []
        self._known = known_fields(options)
        self.named: list[str] = []  # images of the record at hand, relative to the folder

    def sample(self, fields: dict[str, Any], where: Where) -> Sample:
        """Raises Refused where the fields make none."""
        self._keys += fields
        try:
            sample = self._make(fields, where)
        except Refused:
            if self._counts_files:  # also those that it did not come to
                for name in image_names(fields, self._options):
                    with contextlib.suppress(Refused):
                        self._find_image(name)
            raise
        sample.files = self.files()
        return sample

    def _make(self, fields: dict[str, Any], where: Where) -> Sample:
        if self._metadata or _follows_convention(fields):
            self._known.update((*file_name_columns(self._options), low_name_column(self._options)))
            # In a table "", which pandas gives the column of its row numbers, is no key that a user would miss.
            caption = convention_caption(fields, self._options) or ("" if self._metadata else None)
            if caption is not None:
                self._known.add(caption)
            return make_convention_sample(fields, where, self._options, self._find_image)
        return make_sample(fields, where, self._options, self._find_image)

    def files(self) -> Files | None:
        """Those of the record at hand."""
        return Files(tuple(self.named)) if self._counts_files else None

    def count_keys(self, unread: Counter[str], what: str = "key") -> None:
        """Count the keys that are not read of all records so far."""
        count_keys(self._keys, self._known, unread, what)

    def _find_image(self, name: object) -> str:
        path = find_named_image(name, self._folder, self._options)
        if self._counts_files:
            self.named.append(os.path.relpath(path, self._folder))
        return path


def _follows_convention(fields: dict[str, Any]) -> bool:
    """Whether a line of any JSONL names an image as metadata.jsonl does; the files that texts are from are none."""
    name = fields.get(FILE_NAME)
    return isinstance(name, str) and "image" not in fields and "parts" not in fields and looks_like_image(name)
