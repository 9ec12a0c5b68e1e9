"""A file of documents gone on with by a model, into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from mars_megatron.gallery.cascade import model_record
from mars_megatron.gallery.document_folder import DocumentFolder
from mars_megatron.gallery.document_prompts import DocumentPrompt, load_documents
from mars_megatron.platform.parallel import only_on_rank_0
from mars_megatron.sampling.documents import Document, Part
from mars_megatron.sampling.load import agreed_checkpoint, load_for_inference
from mars_megatron.sampling.sampler import Sampler


def interleave(
    checkpoint: str | Path,
    prompts: Sequence[DocumentPrompt],
    output: str | Path,
    *,
    tensor: int | None = None,
    overrides: Sequence[str] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> DocumentFolder:
    """Go on with documents, a batch at a time; those that the folder holds already are left as they are.

    Every rank must call it; rank 0 writes.

    Args:
        checkpoint, tensor, overrides, device: See `load_for_inference`.
        prompts: The documents.
        output: The folder.
        progress: Show progress bars on rank 0.

    Raises:
        ValueError: A wrong setting, prompt or image, or the folder holds other results.
    """
    chosen = agreed_checkpoint(checkpoint, device)
    loaded = load_for_inference(chosen, tensor, overrides, device=device)
    sampler, resolution, settings = Sampler(loaded), loaded.config.image.resolution, loaded.config.generation
    # Neither decides what is drawn; seeds and lengths are those of the prompts.
    others = ("batch_size", "seed", "max_caption_tokens")
    decisive = {name: value for name, value in asdict(settings).items() if name not in others}

    def opened() -> DocumentFolder:
        described = [prompt.described() for prompt in prompts]
        return DocumentFolder(output, {**model_record(chosen, sampler), **decisive}, described)

    def loaded_documents(start: int) -> list[tuple[Document, torch.Tensor]]:
        part = prompts[start : start + settings.batch_size]
        return load_documents(part, sampler.image_tokenizer, resolution)

    # Other hosts may see other files, and encode an image to other codes.
    folder = only_on_rank_0(opened)
    for start in range(folder.num_finished, len(prompts), settings.batch_size):
        part = only_on_rank_0(partial(loaded_documents, start))
        results = sampler.continue_documents([document for document, _ in part], progress=progress)
        if torch.distributed.get_rank() == 0:
            for parts, (_, given) in zip(results, part, strict=True):
                folder.add(_decoded(parts, sampler), given)
            folder.save()
    return folder


def _decoded(parts: Sequence[Part], sampler: Sampler) -> list[str | torch.Tensor]:
    """The same with pixels, uint8 [height, width, 3], in place of codes."""
    return [part if isinstance(part, str) else sampler.decode(part[None])[0] for part in parts]
