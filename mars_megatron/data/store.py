"""An index on disk: PREFIX.bin and PREFIX.idx (megatron-core IndexedDataset with modes), PREFIX.json, and caption
weights in PREFIX.weights.npy where captions have any. FORMAT.md beside this file describes it."""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset

from mars_megatron.data import planning, reference
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.modes import (
    KIND_INTERLEAVED,
    KINDS,
    MODE_IMAGE,
    MODE_LOW,
    MODE_PART_IMAGE,
    NUM_IMAGES,
)

_MAGIC = b"MMIDIDX\x00\x00"
_INT32 = 4  # megatron-core's number for the type of the tokens
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type of the tokens, sequences, document boundaries


class Store:
    """Read access to one index. Nothing is read before it is asked for, but the .idx, which is memory-mapped.

    Args:
        prefix: Path without the .bin/.idx/.json endings.

    Attributes:
        manifest: Contents of PREFIX.json.
        lengths: int32 [S], tokens of each sequence.
        modes: int8 [S], what each sequence is (data.modes).
        boundaries: int64 [D + 1], the first sequence of each document, and S.
        weights: float32 [S], the relative weight of each caption among those of its document; None if all are equal.

    Raises:
        ValueError: A file is missing, truncated or of another format, or the parts do not fit together.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        paths = {ending: Path(f"{self.prefix}.{ending}") for ending in ("bin", "idx")}
        for path in paths.values():
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing; data.path and data.validation_path name an index made by "
                    "tools/index_data.py, without its ending"
                )
        self.manifest = Manifest.read(Path(f"{self.prefix}.json"))
        _check_index_file(paths["idx"])
        self.dataset = IndexedDataset(self.prefix, multimodal=True)
        self.lengths = self.dataset.sequence_lengths
        self.modes = self.dataset.index.sequence_modes
        self.boundaries = np.asarray(self.dataset.document_indices)
        self.weights = self._read_weights()
        self._check_tokens_file(paths["bin"])

    def __reduce__(self) -> Any:
        return Store, (self.prefix,)  # a process that gets a copy opens the files itself

    @cached_property
    def arrays(self) -> planning.CorpusArrays:
        """What planning needs, without copies."""
        arrays = (self.boundaries, self.lengths, self.modes, self.weights)
        return planning.CorpusArrays(*arrays, self.num_codes, self.num_low_codes)

    @cached_property
    def scan(self) -> planning.Scan:
        """What the documents are, looked at one by one.

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
        return self.dataset.get(int(sequence))[0].astype(np.int64)

    def kind(self, document: int) -> int:
        """KIND_TEXT, KIND_IMAGE, KIND_PAIR or KIND_INTERLEAVED."""
        return reference.kind_of(self.arrays, document)

    def sample_rows(self, document: int, task: int, num_text: int) -> int:
        """Input rows of a sample with num_text tokens of caption or text."""
        return reference.sample_rows(self.arrays, document, task, num_text)

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

    def _read_weights(self) -> np.ndarray | None:
        path = Path(f"{self.prefix}.weights.npy")
        if not self.manifest.caption_weights:
            return None
        try:
            weights = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}; make the index again") from error
        if weights.dtype != np.float32 or weights.shape != self.lengths.shape:
            raise ValueError(
                f"{path} has {weights.dtype} {weights.shape}, not a float32 for each of the {len(self.lengths)} "
                f"sequences of {self.prefix}.idx; make the index again"
            )
        return weights

    def _check_tokens_file(self, path: Path) -> None:
        item = DType.size(self.dataset.index.dtype)
        expected = int(self.lengths.sum(dtype=np.int64)) * item
        found = path.stat().st_size
        if found != expected:
            raise ValueError(
                f"{path} has {found} bytes, its index {self.prefix}.idx describes {expected}: "
                "truncated or not of this index; make it again with tools/index_data.py"
            )


def _check_index_file(path: Path) -> None:
    """Refuse a .idx that megatron-core could not read, with the file's name."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ValueError(f"{path} is not an index of megatron-core (or is truncated)")
    _, version, dtype, num_sequences, num_boundaries = _HEADER.unpack(header)
    if (version, dtype) != (1, _INT32):
        raise ValueError(f"{path} is of version {version} and type {dtype}; this version reads 1 and {_INT32} (int32)")
    # length int32, offset int64 and mode int8 per sequence; int64 per document boundary
    expected = _HEADER.size + num_sequences * (4 + 8 + 1) + num_boundaries * 8
    if size != expected:
        raise ValueError(
            f"{path} has {size} bytes, its header describes {expected}: truncated, or written without "
            "modes; make it again with tools/index_data.py"
        )
