"""A run and its exported folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from mars_megatron.sampling import LoadedModel, Sampler, generate_captions
from tests.support.tiny_run import TinyRun

STEP = 7


class Exported(NamedTuple):
    """A run and its exported folder.

    Attributes:
        run: Its files.
        loaded: Its model.
        sampler: Draws and describes with it.
        folder: What transformers loads.
    """

    run: TinyRun
    loaded: LoadedModel
    sampler: Sampler
    folder: Path


def greedy_captions(exported: Exported, images: torch.Tensor) -> list[str]:
    """What the trained model says of uint8 images [N, height, width, 3]."""
    loaded, sampler = exported.loaded, exported.sampler
    ids = generate_captions(
        loaded.model,
        sampler.image_tokenizer.encode(images),
        loaded.vocabulary,
        sampler.text_tokenizer.eos_id,
        replace(loaded.config.generation, temperature=0),
        num_text_ids=sampler.text_tokenizer.size,
    )
    return [sampler.text_tokenizer.decode(caption) for caption in ids]
