"""One id space for text tokens, image codes and the image-side special tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mars_megatron.config.schema import RunConfig

# Image-side special tokens, in id order after the codes. Begin/end of an image, begin/end of a
# low-resolution image (super-resolution), and two rows kept free: together the paper's six.
SPECIALS = ("boi", "eoi", "bol", "eol", "reserved_0", "reserved_1")


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Vocabulary:
    """Layout of the joined ids: `[0, text_size)` text, then `codebook_size` codes, the specials, and start slots.

    The model keeps two tables, text and image; an image-side id lies in row `id - text_size` of the
    image table. Every id at or above `text_size`, special tokens included, has visual modality, so
    that in text-to-image samples no text token depends on a trained parameter.

    Args:
        text_size: Number of text ids (at least the text tokenizer's).
        codebook_size: Number of image codes.
        pad_multiple: Both tables are padded to a multiple of this.
        num_slots: Start slots of next-K-token prediction; the first is BOI, the others have ids of their own.
    """

    text_size: int
    codebook_size: int
    pad_multiple: int = 8
    num_slots: int = 1

    def __post_init__(self) -> None:
        for name in ("text_size", "codebook_size", "pad_multiple", "num_slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"vocabulary.{name} is {getattr(self, name)}; it must be at least 1")

    @classmethod
    def from_config(cls, config: RunConfig) -> Vocabulary:
        sizes = config.vocabulary
        return cls(sizes.text_size, sizes.codebook_size, sizes.pad_multiple, config.image.next_k)

    @property
    def image_size(self) -> int:
        """Rows of the image table in use: codes, specials and start slots."""
        return self.codebook_size + len(SPECIALS) + self.num_slots - 1

    @property
    def size(self) -> int:
        """Joined ids in use."""
        return self.text_size + self.image_size

    @property
    def padded_text_size(self) -> int:
        return round_up(self.text_size, self.pad_multiple)

    @property
    def padded_image_size(self) -> int:
        return round_up(self.image_size, self.pad_multiple)

    def special(self, name: str) -> int:
        """Joined id of one of SPECIALS."""
        return self.text_size + self.codebook_size + SPECIALS.index(name)

    @property
    def boi(self) -> int:
        """Begin of image."""
        return self.special("boi")

    @property
    def start_slots(self) -> tuple[int, ...]:
        """Joined ids of what the first `num_slots` codes of a high-resolution image are predicted from."""
        first = self.text_size + self.codebook_size + len(SPECIALS)
        return self.boi, *range(first, first + self.num_slots - 1)

    @property
    def eoi(self) -> int:
        """End of image."""
        return self.special("eoi")

    def image_row(self, joined_id):
        """Row in the image table of a joined image-side id; int, array or tensor."""
        return joined_id - self.text_size

    def code_to_id(self, code):
        """Joined id of an image code (0..codebook_size-1); int, array or tensor."""
        return code + self.text_size

    def id_to_code(self, joined_id):
        """Image code of a joined code id; the inverse of code_to_id."""
        return joined_id - self.text_size

    def frame(self, codes: np.ndarray | torch.Tensor) -> np.ndarray:
        """Images as they stand in a sequence: raw codes [..., codes] on the CPU -> BOI, their ids, EOI, int64."""
        ids = np.empty((*codes.shape[:-1], codes.shape[-1] + 2), dtype=np.int64)
        ids[..., 0], ids[..., 1:-1], ids[..., -1] = self.boi, self.code_to_id(codes), self.eoi
        return ids

    def modality(self, ids: torch.Tensor) -> torch.Tensor:
        """Joined ids, int64 [T] -> uint8 [T]: 0 (TEXT) below text_size, 1 (VISUAL) from there on."""
        return (ids >= self.text_size).to(torch.uint8)
