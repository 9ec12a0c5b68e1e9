"""An index on disk: PREFIX.bin and PREFIX.idx (megatron-core IndexedDataset with modes) and PREFIX.json.

One document is one sample, one sequence one part of it, and the sequence's mode tells its kind:

    image document   one or more captions (mode 0, text ids), then one image (mode 1, codes, row-major)
    text document    one sequence of mode 0
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset

from mars_megatron.data.manifest import Manifest

MODE_TEXT = 0
MODE_IMAGE = 1

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type of the tokens, sequences, document boundaries


class Store:
    """Read access to one index.

    Args:
        prefix: Path without the .bin/.idx/.json endings.

    Attributes:
        manifest: Contents of PREFIX.json.
        first_sequence: int64 [D], first sequence of each document.
        num_captions: int64 [D], text sequences of each document (1 for a text document).
        is_image: bool [D], whether the document ends in an image.
        lengths: int32 [sequences], tokens of each sequence.

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
        self._check_tokens_file(paths["bin"])

        boundaries = np.asarray(self.dataset.document_indices)  # [D + 1]
        self.lengths = self.dataset.sequence_lengths
        self.first_sequence = boundaries[:-1]
        modes = self.dataset.index.sequence_modes
        num_sequences = np.diff(boundaries)
        if len(num_sequences) == 0 or num_sequences.min() < 1:
            raise ValueError(f"{paths['idx']} has an empty document; make the index again")
        self.is_image = modes[boundaries[1:] - 1] == MODE_IMAGE
        self.num_captions = num_sequences - self.is_image
        self._check_documents(modes)

    @property
    def num_documents(self) -> int:
        return len(self.first_sequence)

    @property
    def num_codes(self) -> int:
        """Tokens of one image; 0 for an index of text alone."""
        image = self.manifest.image_tokenizer
        return image.grid[0] * image.grid[1] if image else 0

    def tokens(self, sequence: int) -> np.ndarray:
        """One sequence as int64: text ids, or raw codes."""
        return self.dataset.get(int(sequence))[0].astype(np.int64)

    def captions(self, document: int) -> list[np.ndarray]:
        """Text ids of every caption of a document (the text itself for a text document)."""
        first = self.first_sequence[document]
        return [self.tokens(first + i) for i in range(self.num_captions[document])]

    def codes(self, document: int) -> np.ndarray:
        """Raw codes of an image document, int64 [h * w]."""
        assert self.is_image[document], f"document {document} has no image"
        return self.tokens(self.first_sequence[document] + self.num_captions[document])

    def _check_tokens_file(self, path: Path) -> None:
        item = DType.size(self.dataset.index.dtype)
        expected = int(self.dataset.sequence_lengths.sum(dtype=np.int64)) * item
        found = path.stat().st_size
        if found != expected:
            raise ValueError(
                f"{path} has {found} bytes, its index {self.prefix}.idx describes {expected}: "
                "truncated or not of this index; make it again with tools/index_data.py"
            )

    def _check_documents(self, modes: np.ndarray) -> None:
        problem = None
        num_images = int(self.is_image.sum())
        lengths = self.lengths[modes == MODE_IMAGE]
        if self.num_documents != self.manifest.num_documents:
            problem = f"has {self.num_documents} documents, its manifest says {self.manifest.num_documents}"
        elif len(lengths) != num_images or self.num_captions.min() < 1:
            problem = "has a document that is not captions followed by one image"
        elif (self.num_captions[~self.is_image] != 1).any():
            problem = "has a text document of more than one sequence"
        elif (lengths != self.num_codes).any():
            problem = f"has images that are not of {self.num_codes} codes as its manifest says"
        if problem:
            raise ValueError(f"{self.prefix}.idx {problem}; make it again with tools/index_data.py")


def _check_index_file(path: Path) -> None:
    """Refuse a .idx that megatron-core could not read, with the file's name."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ValueError(f"{path} is not an index of megatron-core (or is truncated)")
    _, _, _, num_sequences, num_boundaries = _HEADER.unpack(header)
    # length int32, offset int64 and mode int8 per sequence; int64 per document boundary
    expected = _HEADER.size + num_sequences * (4 + 8 + 1) + num_boundaries * 8
    if size != expected:
        raise ValueError(
            f"{path} has {size} bytes, its header describes {expected}: truncated, or written without "
            "modes; make it again with tools/index_data.py"
        )
