"""Image to text: captions of encoded images."""

from __future__ import annotations

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import agree
from mars_megatron.sampling.text import generate_text
from mars_megatron.sequence.vocabulary import Vocabulary


def generate_captions(
    model: MARSModel,
    codes: torch.Tensor,
    vocabulary: Vocabulary,
    eos_id: int,
    config: GenerationConfig,
    *,
    num_text_ids: int | None = None,
) -> list[list[int]]:
    """Caption images: the text after BOI codes EOI, as `generate_text` writes it.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        codes: int64 [N, codes], row by row. Those of the first tensor-parallel rank count.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.
        config: See `generate_text`.
        num_text_ids: See `generate_text`.

    Returns:
        Text ids of each caption, without EOS.

    Raises:
        ValueError: The model is split over pipeline stages.
    """
    # Ranks that encoded the images on their own may differ in a code.
    images = vocabulary.frame(agree(codes.to(platform.device()), model).cpu()).tolist()
    return generate_text(model, images, vocabulary, eos_id, config, num_text_ids=num_text_ids)
