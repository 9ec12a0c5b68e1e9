"""What `tools/benchmark.py data` measures, and on how much. No torch here: the command line shows these values."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field

PARTS = ("text", "image", "loader", "startup", "packing")
SHORTEST_CAPTION, LONGEST_CAPTION = 10, 150  # of the budgets of 7B, in tokens
NORM_GROUPS = 32  # of the image tokenizer


@dataclass(frozen=True)
class DataOptions:
    """What is measured.

    Args:
        parts: Of PARTS.
        captions: Texts to index.
        text_vocabulary: Ids of the tokenizer that is trained on some of them.
        workers: Worker processes of indexing.
        images: JPEG files to index.
        image_size: Width and height of them.
        resolution: Side that they are brought to.
        widths: Channels of the VQModel at each resolution; each after the first halves the image.
        batch_size: Images encoded at once.
        small_images: Images of 16 pixels, with the quickstart's VQModel.
        micro_batches: Micro-batches that the loader delivers in one timed run.
        steps: Training steps in one timed run.
        documents: Documents of the index of the start-up.
        packed_documents: Documents that are packed.
        rounds: Timed runs of everything.
        folder: Where everything is written, and deleted again.
        progress: Show progress bars.

    Raises:
        ValueError: A value is not possible; the message names it.
    """

    parts: tuple[str, ...] = PARTS
    captions: int = 200_000
    text_vocabulary: int = 8000
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    images: int = 32
    image_size: tuple[int, int] = (640, 480)
    resolution: int = 256
    widths: tuple[int, ...] = (64, 128, 128, 256, 384)
    batch_size: int = 8
    small_images: int = 4000
    micro_batches: int = 400
    steps: int = 10
    documents: int = 10_000_000
    packed_documents: int = 100_000
    rounds: int = 3
    folder: str = field(default_factory=tempfile.gettempdir)
    progress: bool = True

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) - set(PARTS):
            raise ValueError(f"--parts {' '.join(self.parts)}: some of {', '.join(PARTS)} are needed")
        at_least_one = ("captions", "text_vocabulary", "images", "resolution", "batch_size", "small_images",
                        "micro_batches", "steps", "documents", "packed_documents", "rounds")  # fmt: skip
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1 is needed")
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers}: at least 0 is needed")
        if min(self.image_size) < 1:
            raise ValueError(f"--image-size {self.image_size}: both sides must be at least 1")
        widths, downsample = " ".join(map(str, self.widths)), 2 ** (len(self.widths) - 1)
        if not self.widths or any(width < 1 or width % NORM_GROUPS for width in self.widths):
            raise ValueError(f"--widths {widths}: each must be a multiple of {NORM_GROUPS}")
        if self.resolution % downsample:
            raise ValueError(f"--widths {widths}: --resolution {self.resolution} must be a multiple of {downsample}")


# For a look: seconds instead of minutes.
QUICK = DataOptions(
    captions=20_000,
    images=16,
    widths=(32, 32, 64, 64, 128),
    small_images=500,
    micro_batches=100,
    steps=3,
    documents=500_000,
    packed_documents=20_000,
    rounds=1,
)
