"""A run and its exported folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from mars_megatron.export.folder import write_companions
from mars_megatron.sampling import LoadedModel, Sampler, load_for_inference, sample_captions
from tests.support.exported import exported_state
from tests.support.tiny_run import TinyRun, write_run

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
    ids = sample_captions(
        loaded.model,
        sampler.image_tokenizer.encode(images),
        loaded.vocabulary,
        sampler.text_tokenizer.eos_id,
        replace(loaded.config.generation, temperature=0),
        num_text_ids=sampler.text_tokenizer.size,
    )
    return [sampler.text_tokenizer.decode(caption) for caption in ids]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run with everything that is exported, and its exported folder."""
    root = tmp_path_factory.mktemp("exported")
    run = write_run(root)
    loaded = load_for_inference(run.checkpoint)
    folder = root / "mars"
    folder.mkdir()
    data = run.config.data
    write_companions(
        folder,
        run.config,
        step=STEP,
        dtype="fp32",
        text_tokenizer=data.text_tokenizer,
        image_tokenizer=data.image_tokenizer,
    )
    state = {name: value.contiguous() for name, value in exported_state(loaded.model, run.config).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return Exported(run, loaded, Sampler(loaded), folder)
