"""The settings of the data of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# Rows of data.micro_batch_tokens that packing keeps free for padding each modality to the tensor-parallel size,
# and the largest size that fits. Always the same amount: the packs, and with them the losses, must not depend on
# the parallel layout.
RESERVED_ROWS = 64
MAX_SEQUENCE_PARALLEL = 32
MAX_CORPORA = 256  # a packed sample names its corpus in a byte


@dataclass(frozen=True)
class TaskWeights:
    """Shares of the tasks among the samples of a corpus, relative to each other. Tasks that none of its documents can
    serve do not count; documents that serve no task with a weight are not trained, only validated.

    Args:
        t2i: Text-to-image, of documents with an image.
        i2t: Captioning, of documents with an image.
        sr: Super-resolution, of documents with an image at two resolutions; image.next_k sets its K.
        text: Language modelling, of text documents. Frozen text experts learn nothing from it.
        interleaved: Documents of several texts and images, all of which is learned.
    """

    t2i: float = 0.5
    i2t: float = 0.5
    sr: float = 0.0
    text: float = 0.0
    interleaved: float = 0.0


@dataclass(frozen=True)
class CorpusConfig:
    """One corpus of a blend.

    Args:
        path: Prefix of a .bin/.idx index made by tools/index_data.py.
        weight: Share of the samples, relative to the other corpora. 0: the corpus is used only for validation.
        tasks: Task mixture of this corpus; null takes data.tasks.
    """

    path: str = ""
    weight: float = 1.0
    tasks: TaskWeights | None = None


@dataclass(frozen=True)
class DataConfig:
    """What is read and how it is packed.

    Args:
        path: Prefix of the .bin/.idx index made by tools/index_data.py.
        blend: Several corpora by weight, instead of path, such as [{"path": "a", "weight": 0.7}, {"path": "b"}].
        validation_path: Prefix of a separate validation index; empty means a share of every corpus is held out.
        validation_fraction: Share of the documents held out when validation_path is empty.
        text_tokenizer: SentencePiece .model file, or a tokenizer folder: its tokenizer.json or, without one, its
            .model file. No begin token is added to texts. The run keeps a copy.
        image_tokenizer: Folder of the diffusers VQModel. The run keeps a copy.
        tasks: Task mixture.
        caption_dropout: Probability of dropping the caption in text-to-image and super-resolution (for classifier-free
            guidance).
        micro_batch_tokens: Largest number of rows of a micro-batch, a packed sequence of whole samples. Under pipeline
            parallelism every micro-batch is padded to this number.
        too_long: Treatment of longer samples: error refuses the data before training, skip skips them.
        pack_by_task: Pack samples of one task per micro-batch, so that those of text-to-image skip the backward pass of
            the text rows. False mixes tasks: fewer, fuller micro-batches, for slow communication between ranks.
        num_workers: Loader worker processes of each rank that reads; 0 loads in the training process.
        prefetch: Micro-batches that are copied to the device ahead of the step, by a thread of the training process; 0
            copies each when the step needs it.
        cache_dir: Folder for the packed order of samples, shared by ranks and runs; empty means data_cache in
            checkpoint.dir, or memory if checkpoint.dir is empty.
        seed: Seed of order, task, caption and dropout decisions.
    """

    path: str = ""
    blend: tuple[CorpusConfig, ...] = ()
    validation_path: str = ""
    validation_fraction: float = 0.02
    text_tokenizer: str = ""
    image_tokenizer: str = ""
    tasks: TaskWeights = field(default_factory=TaskWeights)
    caption_dropout: float = 0.1
    micro_batch_tokens: int = 1024
    too_long: Literal["error", "skip"] = "error"
    pack_by_task: bool = True
    num_workers: int = 0
    prefetch: int = 2
    cache_dir: str = ""
    seed: int = 1234
