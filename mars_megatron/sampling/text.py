"""Text: what a model writes after a beginning, which may hold images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import Decoder, agree, chooser, inference
from mars_megatron.sampling.draws import uniforms
from mars_megatron.sequence import TEXT
from mars_megatron.sequence.vocabulary import Vocabulary


def generate_text(
    model: MARSModel,
    beginnings: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    eos_id: int,
    config: GenerationConfig,
    *,
    num_text_ids: int | None = None,
) -> list[list[int]]:
    """Continue each beginning with text ids until EOS, or with config.max_caption_tokens of them.

    Every tensor-parallel rank must call it, and gets the same.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        beginnings: Joined ids, the same on every rank; none empty.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.
        config: Temperature (0 is greedy), top_k, top_p, min_p, seed, batch_size, max_caption_tokens. Guidance is not
            used.
        num_text_ids: Ids that may occur are those below it, where the tokenizer has fewer than the model.

    Returns:
        The new text ids, without EOS.

    Raises:
        ValueError: The model is split over pipeline stages.
    """
    num_text_ids = vocabulary.text_size if num_text_ids is None else num_text_ids
    results: list[list[int]] = []
    with inference(model):
        for start in range(0, len(beginnings), config.batch_size):
            part = range(start, min(start + config.batch_size, len(beginnings)))
            decoder = Decoder(
                model, vocabulary, beginnings[start : part.stop], TEXT, max_new_tokens=config.max_caption_tokens
            )
            noise = uniforms([(config.seed, index) for index in part], config.max_caption_tokens)
            results += _write(model, decoder, num_text_ids, eos_id, noise, config)
    return results


def _write(
    model: MARSModel,
    decoder: Decoder,
    num_text_ids: int,
    eos_id: int,
    noise: torch.Tensor,
    config: GenerationConfig,
) -> list[list[int]]:
    """One batch; noise is float64 [samples, max_caption_tokens]."""
    num_samples, max_tokens = noise.shape
    logits = decoder.start()
    noise = noise.to(logits.device)
    choose = chooser(config)
    ended = torch.zeros(num_samples, dtype=torch.bool, device=logits.device)
    steps: list[torch.Tensor] = []
    while True:
        ids = agree(choose(logits[:, :num_text_ids], noise[:, len(steps)]), model)
        ids = ids.masked_fill(ended, eos_id)  # what follows an end is never looked at
        steps.append(ids)
        ended = ended | (ids == eos_id)
        if len(steps) == max_tokens or bool(ended.all()):
            break
        logits = decoder.step(ids)
    written = torch.stack(steps, dim=1).tolist()
    return [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in written]
