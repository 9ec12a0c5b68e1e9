"""Reading an index in training: the parts of each document, by its number."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mars_megatron.data import planning, planning_reference
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import KIND_INTERLEAVED, KINDS, MODE_IMAGE, MODE_LOW, MODE_PART_IMAGE, NUM_IMAGES
from mars_megatron.index.reader import ITEM_BYTES, index_path, read_arrays, read_tokens, read_weights


class Store:
    """Read access to one index, whose files are memory-mapped.

    Args:
        prefix: Path without the .bin/.idx/.json endings.

    Attributes:
        manifest: Contents of PREFIX.json.
        lengths: int32 [S], tokens of each sequence.
        modes: int8 [S], what each sequence is (index.modes).
        boundaries: int64 [D + 1], the first sequence of each document, and S.
        weights: float32 [S], the relative weight of each caption among those of its document; None if all are equal.

    Raises:
        ValueError: A file is missing, truncated or of another format, or the parts do not fit together.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        arrays = read_arrays(index_path(prefix, "idx"))
        self.manifest = Manifest.read(index_path(prefix, "json"))
        self._tokens, self._offsets = read_tokens(index_path(prefix, "bin"), arrays), arrays.offsets
        self.lengths, self.modes, self.boundaries = arrays.lengths, arrays.modes, arrays.boundaries
        has_weights = self.manifest.caption_weights
        self.weights = read_weights(index_path(prefix, "weights.npy"), arrays) if has_weights else None

    def __reduce__(self) -> Any:
        return Store, (self.prefix,)  # a process that gets a copy opens the files itself

    @cached_property
    def arrays(self) -> planning.CorpusArrays:
        """The arrays that planning reads, without copies."""
        arrays = (self.boundaries, self.lengths, self.modes, self.weights)
        return planning.CorpusArrays(*arrays, self.num_codes, self.num_low_codes)

    @cached_property
    def scan(self) -> planning.Scan:
        """The kinds of all documents, checked one by one.

        Raises:
            ValueError: A document is damaged, or they are not those that the manifest counts.
        """
        found = planning.scan(self.arrays)
        problem = found.problem
        expected = [self.manifest.documents.get(kind, 0) for kind in KINDS]
        if not problem and found.documents != expected:
            problem = f"has {dict(zip(KINDS, found.documents, strict=True))} documents, its manifest says {expected}"
        if problem:
            raise ValueError(f"{self.prefix}.idx {problem}; make the index again with tools/index_data.py")
        return found

    @property
    def num_documents(self) -> int:
        return len(self.boundaries) - 1

    @property
    def num_codes(self) -> int:
        """Tokens of one image; 0 for an index of text alone."""
        image = self.manifest.image_tokenizer
        return image.num_codes if image else 0

    @property
    def num_low_codes(self) -> int:
        """Tokens of the low-resolution image of a pair; 0 for an index without pairs."""
        image = self.manifest.image_tokenizer
        return image.num_low_codes if image else 0

    def tokens(self, sequence: int) -> np.ndarray:
        """One sequence as int64: text ids, or raw codes."""
        begin = int(self._offsets[sequence]) // ITEM_BYTES
        return self._tokens[begin : begin + int(self.lengths[sequence])].astype(np.int64)

    def kind(self, document: int) -> int:
        """KIND_TEXT, KIND_IMAGE, KIND_PAIR or KIND_INTERLEAVED."""
        return planning_reference.kind_of(self.arrays, document)

    def sample_rows(self, document: int, task: int, num_text: int) -> int:
        """Input rows of a sample with num_text tokens of caption or text."""
        return planning_reference.sample_rows(self.arrays, document, task, num_text)

    def num_captions(self, document: int) -> int:
        """Text sequences of a document that is not interleaved (1 for a text document)."""
        first, end = self.boundaries[document : document + 2].tolist()
        return end - first - int(NUM_IMAGES[self.kind(document)])

    def caption(self, document: int, number: int) -> np.ndarray:
        """Text ids of one caption, int64 (the text itself for number 0 of a text document)."""
        return self.tokens(self.boundaries[document] + number)

    def captions(self, document: int) -> list[np.ndarray]:
        """Text ids of every caption of a document that is not interleaved."""
        return [self.caption(document, number) for number in range(self.num_captions(document))]

    def codes(self, document: int) -> np.ndarray:
        """Raw codes of the image of an image document or the high-resolution one of a pair, int64 [h * w]."""
        sequence = self.boundaries[document + 1] - 1
        assert self.modes[sequence] == MODE_IMAGE, f"document {document} has no image"
        return self.tokens(sequence)

    def low_codes(self, document: int) -> np.ndarray:
        """Raw codes of the low-resolution image of a pair, int64 [h * w]."""
        sequence = self.boundaries[document + 1] - 2
        assert self.modes[sequence] == MODE_LOW, f"document {document} is no pair"
        return self.tokens(sequence)

    def parts(self, document: int) -> list[tuple[bool, np.ndarray]]:
        """(is an image, tokens) of each part of an interleaved document."""
        assert self.kind(document) == KIND_INTERLEAVED, f"document {document} is not interleaved"
        sequences = range(*self.boundaries[document : document + 2].tolist())
        return [(self.modes[sequence] == MODE_PART_IMAGE, self.tokens(sequence)) for sequence in sequences]
