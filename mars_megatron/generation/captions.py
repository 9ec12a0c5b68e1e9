"""Image to text: captions of encoded images."""

from __future__ import annotations

import torch
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.generation.decoding import Decoder, agree, inference
from mars_megatron.generation.sampling import draw, uniforms
from mars_megatron.model import MARSModel
from mars_megatron.ops import TEXT
from mars_megatron.tokenizers.vocabulary import Vocabulary


def generate_captions(
    model: MARSModel,
    codes: torch.Tensor,
    vocabulary: Vocabulary,
    eos_id: int,
    config: GenerationConfig,
    *,
    num_text_ids: int | None = None,
    progress: bool = False,
) -> list[list[int]]:
    """Caption images: text ids until EOS, or config.max_caption_tokens of them.

    Every tensor-parallel rank must call it, and gets the same.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        codes: int64 [N, codes], row by row.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.
        config: Temperature (0 is greedy), top_k, top_p, seed, batch_size, max_caption_tokens. Guidance is not used.
        num_text_ids: Ids that may occur are those below it, where the tokenizer has fewer than the model.
        progress: Show a progress bar on rank 0.

    Returns:
        Text ids of each caption, without EOS.

    Raises:
        ValueError: The model is split over pipeline stages.
    """
    num_text_ids = vocabulary.text_size if num_text_ids is None else num_text_ids
    codes = agree(codes.to(platform.device()), model)  # ranks that encoded them on their own may differ
    captions: list[list[int]] = []
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=len(codes), desc="caption", unit="image", disable=hidden) as bar:
        for start in range(0, len(codes), config.batch_size):
            part = range(start, min(start + config.batch_size, len(codes)))
            noise = uniforms(config.seed, part, config.max_caption_tokens)
            captions += _generate(model, codes[start : part.stop], vocabulary, num_text_ids, eos_id, noise, config)
            bar.update(len(part))
    return captions


def _generate(
    model: MARSModel,
    codes: torch.Tensor,
    vocabulary: Vocabulary,
    num_text_ids: int,
    eos_id: int,
    noise: torch.Tensor,
    config: GenerationConfig,
) -> list[list[int]]:
    """One batch; noise is float64 [samples, max_caption_tokens]."""
    max_tokens = noise.shape[1]
    images = [[vocabulary.boi, *image, vocabulary.eoi] for image in vocabulary.code_to_id(codes).tolist()]
    decoder = Decoder(model, vocabulary, images, TEXT, max_tokens)
    logits = decoder.start()
    noise = noise.to(logits.device)
    ended = torch.zeros(len(images), dtype=torch.bool, device=logits.device)
    steps: list[torch.Tensor] = []
    while True:
        ids = agree(draw(logits[:, :num_text_ids], noise[:, len(steps)], config), model)
        ids = ids.masked_fill(ended, eos_id)  # what follows an end is never looked at
        steps.append(ids)
        ended = ended | (ids == eos_id)
        if len(steps) == max_tokens or bool(ended.all()):
            break
        logits = decoder.step(ids)
    captions = torch.stack(steps, dim=1).tolist()
    return [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in captions]
